import { PocketNetError } from "./errors.js";
import { Library } from "./library.js";
import { compile, read } from "./module.js";
import { WorkerLibrary } from "./worker_library.js";

export { PocketNetError } from "./errors.js";

/** @typedef {import("./index.js").OpenOptions} OpenOptions */
/** @typedef {import("./index.js").Pixels} Pixels */

const MAX_FACES = 256;

export class PocketNet {
  /** @type {Library | WorkerLibrary | null} */
  #library;

  /** @param {Library | WorkerLibrary} library */
  constructor(library) {
    this.#library = library;
    this.info = library.info;
    this.thresholds = library.thresholds;
    this.defaultThreshold = this.thresholds[this.info.defaultThreshold];
  }

  /**
   * @param {string | URL | ArrayBuffer | Uint8Array} source
   * @param {OpenOptions} options
   */
  static async open(source, options = {}) {
    const address = typeof source === "string" || source instanceof URL;
    if (!address && !(source instanceof ArrayBuffer) && !(source instanceof Uint8Array)) {
      throw new PocketNetError("INVALID_ARGUMENT", "a model is opened from an address, an ArrayBuffer or a Uint8Array");
    }
    const { worker = false, maxPhotoSide, cropsOnly } = options;
    if (maxPhotoSide !== undefined && !(Number.isInteger(maxPhotoSide) && maxPhotoSide > 0)) {
      throw new PocketNetError("INVALID_ARGUMENT", `maxPhotoSide is ${maxPhotoSide}; expected a whole number of pixels`);
    }
    const [module, content] = await Promise.all([compile(options), address ? read(source) : new Uint8Array(source)]);
    const kind = worker ? WorkerLibrary : Library;
    return new PocketNet(await kind.open(module, content, { maxPhotoSide, cropsOnly }));
  }

  /** @param {Pixels | readonly Pixels[]} crops */
  async embed(crops) {
    return this.#opened().embed(Array.isArray(crops) ? crops : [crops]);
  }

  /**
   * @param {Pixels} photo
   * @param {{maxFaces?: number}} options
   */
  async analyze(photo, { maxFaces = MAX_FACES } = {}) {
    return this.#opened().analyze(photo, maxFaces);
  }

  close() {
    this.#library?.close();
    this.#library = null;
  }

  #opened() {
    if (this.#library === null) throw new PocketNetError("INVALID_ARGUMENT", "the model is closed");
    return this.#library;
  }
}

/**
 * @param {ArrayLike<number>} one
 * @param {ArrayLike<number>} other
 */
export function compare(one, other) {
  if (one.length !== other.length) {
    throw new PocketNetError("INVALID_ARGUMENT", `embeddings of ${one.length} and of ${other.length} numbers`);
  }
  let product = 0;
  let squares = 0;
  let otherSquares = 0;
  for (let i = 0; i < one.length; i++) {
    product += one[i] * other[i];
    squares += one[i] * one[i];
    otherSquares += other[i] * other[i];
  }
  const lengths = Math.sqrt(squares) * Math.sqrt(otherSquares);
  if (!(lengths > 0 && Number.isFinite(lengths))) {
    throw new PocketNetError("INVALID_ARGUMENT", "an embedding of no length, or that is not finite");
  }
  return Math.min(Math.max(product / lengths, -1), 1);
}
