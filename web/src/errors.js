/** A pocketnet_status by its number. */
const STATUS = /** @type {const} */ ([
  "OK",
  "INVALID_ARGUMENT",
  "IO",
  "BAD_FILE",
  "UNSUPPORTED",
  "OUT_OF_MEMORY",
  "LIMIT",
  "INTERNAL",
]);

/** @typedef {import("./index.js").Status} Status */

export class PocketNetError extends Error {
  /**
   * @param {Status} status
   * @param {string} message
   */
  constructor(status, message) {
    super(message);
    this.name = "PocketNetError";
    this.status = status;
  }
}

/**
 * @param {number} number
 * @returns {Status}
 */
export function statusOf(number) {
  const status = STATUS[number];
  return status === undefined || status === "OK" ? "INTERNAL" : status;
}

/**
 * What went wrong, as worker messages carry it.
 * @param {unknown} error
 * @returns {{status: Status, message: string}}
 */
export function plain(error) {
  return error instanceof PocketNetError
    ? { status: error.status, message: error.message }
    : { status: "INTERNAL", message: error instanceof Error ? error.message : String(error) };
}
