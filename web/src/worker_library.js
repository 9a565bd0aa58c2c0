// A Library that lives in a worker (worker.js): the same calls, answered by promises.
import { PocketNetError } from "./errors.js";

/** @typedef {import("./index.js").Face} Face */
/** @typedef {import("./index.js").Info} Info */
/** @typedef {import("./index.js").OpenOptions} OpenOptions */
/** @typedef {import("./index.js").Pixels} Pixels */
/** @typedef {import("./index.js").Status} Status */
/** @typedef {import("./index.js").Threshold} Threshold */
/** @typedef {{id: number, result: any} | {id: number, error: {status: Status, message: string}}} Answer */

/**
 * Without what else an object has beside its pixels, which may be nothing that can be sent.
 * @param {Pixels} image
 */
function sendable(image) {
  return image && { data: image.data, width: image.width, height: image.height };
}

export class WorkerLibrary {
  #worker;
  #calls = 0;
  /** @type {Map<number, {resolve: (result: any) => void, reject: (error: PocketNetError) => void}>} */
  #waiting = new Map();
  /** @type {Info} */
  info = /** @type {any} */ (undefined);
  /** @type {Threshold[]} */
  thresholds = [];

  /**
   * @param {WebAssembly.Module} module
   * @param {Uint8Array} content
   * @param {OpenOptions} options
   */
  static async open(module, content, options) {
    if (typeof Worker === "undefined") throw new PocketNetError("UNSUPPORTED", "there are no workers of browsers here");
    const library = new WorkerLibrary(new Worker(new URL("./worker.js", import.meta.url), { type: "module" }));
    try {
      const facts = await library.#call("open", [module, content, options]);
      library.info = facts.info;
      library.thresholds = facts.thresholds;
      return library;
    } catch (error) {
      library.close();
      throw error;
    }
  }

  /** @param {Worker} worker */
  constructor(worker) {
    this.#worker = worker;
    worker.addEventListener("message", (/** @type {MessageEvent<Answer>} */ { data }) => {
      const call = this.#waiting.get(data.id);
      this.#waiting.delete(data.id);
      if ("error" in data) {
        call?.reject(new PocketNetError(data.error.status, data.error.message));
      } else {
        call?.resolve(data.result);
      }
    });
    worker.addEventListener("error", (event) => this.#refuse(event.message || "the worker could not be started"));
  }

  /**
   * @param {Pixels[]} crops
   * @returns {Promise<Float32Array<ArrayBuffer>[]>}
   */
  embed(crops) {
    return this.#call("embed", [crops.map(sendable)]);
  }

  /**
   * @param {Pixels} photo
   * @param {number} most
   * @returns {Promise<Face[]>}
   */
  analyze(photo, most) {
    return this.#call("analyze", [sendable(photo), most]);
  }

  close() {
    this.#worker.terminate();
    this.#refuse("the model is closed");
  }

  /** @param {string} message */
  #refuse(message) {
    for (const { reject } of this.#waiting.values()) reject(new PocketNetError("INTERNAL", message));
    this.#waiting.clear();
  }

  /**
   * @param {string} name
   * @param {unknown[]} args
   * @returns {Promise<any>}
   */
  #call(name, args) {
    const id = this.#calls++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, name, args });
    });
  }
}
