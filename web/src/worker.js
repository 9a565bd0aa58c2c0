// Runs a Library beside the page. Messages are {id, name, args}, and are answered by {id, result} or {id, error}.
import { plain } from "./errors.js";
import { Library } from "./library.js";

/** @typedef {import("./index.js").OpenOptions} OpenOptions */
/** @typedef {import("./index.js").Pixels} Pixels */

/** @type {Library} */
let library;

/** @type {Record<string, (...args: any[]) => unknown>} */
const CALLS = {
  /**
   * @param {WebAssembly.Module} module
   * @param {Uint8Array} content
   * @param {OpenOptions} options
   */
  async open(module, content, options) {
    library = await Library.open(module, content, options);
    return { info: library.info, thresholds: library.thresholds };
  },
  /** @param {Pixels[]} crops */
  embed(crops) {
    return library.embed(crops);
  },
  /**
   * @param {Pixels} photo
   * @param {number} most
   */
  analyze(photo, most) {
    return library.analyze(photo, most);
  },
};

addEventListener("message", async ({ data: { id, name, args } }) => {
  try {
    postMessage({ id, result: await CALLS[name](...args) });
  } catch (error) {
    postMessage({ id, error: plain(error) });
  }
});
