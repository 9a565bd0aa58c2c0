// Calls of include/pocketnet.h on an instance of the compiled library, one at a time. Structures are laid out as there,
// with pointers and sizes of 32 bits.
import { PocketNetError, statusOf } from "./errors.js";
import { instantiate } from "./module.js";

/** @typedef {import("./index.js").Face} Face */
/** @typedef {import("./index.js").Info} Info */
/** @typedef {import("./index.js").OpenOptions} OpenOptions */
/** @typedef {import("./index.js").Pixels} Pixels */
/** @typedef {import("./index.js").Threshold} Threshold */

const ALIGNMENT = 64;
const INFO_BYTES = 76;
const CONTEXT_OPTIONS_BYTES = 20;
const IMAGE_BYTES = 28;
const FACE_BYTES = 72;

/**
 * Pixels of 3 bytes in the order R, G, B from those of a canvas, or as they are.
 * @param {Pixels} image
 * @param {Uint8Array} out
 */
function writeRgb({ data, width, height }, out) {
  const pixels = width * height;
  if (data.length === 3 * pixels) {
    out.set(data);
    return;
  }
  for (let i = 0, at = 0; at < 3 * pixels; i += 4, at += 3) {
    out[at] = data[i];
    out[at + 1] = data[i + 1];
    out[at + 2] = data[i + 2];
  }
}

/** @param {Pixels} image */
function check(image) {
  const { data, width, height } = image ?? {};
  const known = data instanceof Uint8Array || data instanceof Uint8ClampedArray;
  if (!known || !(Number.isInteger(width) && width > 0) || !(Number.isInteger(height) && height > 0)) {
    throw new PocketNetError("INVALID_ARGUMENT", "an image is {data, width, height} with bytes in data, as ImageData");
  }
  const bytes = data.length / (width * height);
  if (bytes !== 3 && bytes !== 4) {
    throw new PocketNetError(
      "INVALID_ARGUMENT",
      `an image of ${width} x ${height} pixels has ${data.length} bytes; expected 4 or 3 a pixel`,
    );
  }
}

export class Library {
  /** @type {Record<string, (...args: number[]) => number>} */
  #calls;
  /** @type {WebAssembly.Memory} */
  #memory;
  #content = 0;
  #model = 0;
  #context = 0;
  /** @type {Info} */
  info;
  /** @type {Threshold[]} */
  thresholds;

  /**
   * @param {WebAssembly.Module} module
   * @param {Uint8Array} content Of a .pnf file.
   * @param {OpenOptions} options
   */
  static async open(module, content, options) {
    return new Library(await instantiate(module), content, options);
  }

  /**
   * @param {WebAssembly.Exports} exports
   * @param {Uint8Array} content
   * @param {OpenOptions} options
   */
  constructor(exports, content, options) {
    this.#calls = /** @type {any} */ (exports);
    this.#memory = /** @type {WebAssembly.Memory} */ (exports["memory"]);
    this.#content = this.#take(content.length);
    this.#bytes(this.#content, content.length).set(content);
    this.#model = this.#made((out) => this.#call("open_memory", this.#content, content.length, 0, out));
    this.info = this.#query();
    this.thresholds = this.#thresholds();
    const cropsOnly = options.cropsOnly ?? !this.info.takesPhotos;
    this.#context = this.#with(CONTEXT_OPTIONS_BYTES, (at) => {
      const wanted = this.#view(at, CONTEXT_OPTIONS_BYTES);
      [CONTEXT_OPTIONS_BYTES, 0, 0, Number(cropsOnly), options.maxPhotoSide ?? 0].forEach((value, i) =>
        wanted.setUint32(4 * i, value, true),
      );
      return this.#made((out) => this.#call("context_create", this.#model, at, out));
    });
  }

  /**
   * @param {Pixels[]} crops
   * @returns {Float32Array<ArrayBuffer>[]}
   */
  embed(crops) {
    const { embeddingDim } = this.info;
    crops.forEach(check);
    return crops.map((crop) =>
      this.#withImage(crop, (image) =>
        this.#with(4 * embeddingDim, (out) => {
          this.#call("embed", this.#context, image, 1, out);
          return this.#floats(out, embeddingDim);
        }),
      ),
    );
  }

  /**
   * @param {Pixels} photo
   * @param {number} most
   * @returns {Face[]}
   */
  analyze(photo, most) {
    const { embeddingDim } = this.info;
    check(photo);
    if (!(Number.isInteger(most) && most > 0)) {
      throw new PocketNetError("INVALID_ARGUMENT", `maxFaces is ${most}; expected a whole number of at least 1`);
    }
    return this.#withImage(photo, (image) =>
      this.#with(most * (FACE_BYTES + 4 * embeddingDim) + 4, (at) => {
        const embeddings = at + most * FACE_BYTES;
        const found = embeddings + 4 * most * embeddingDim;
        this.#call("analyze", this.#context, image, at, embeddings, most, found);
        const faces = Math.min(this.#view(found, 4).getUint32(0, true), most);
        return Array.from({ length: faces }, (_, i) => ({
          ...this.#face(at + i * FACE_BYTES),
          embedding: this.#floats(embeddings + 4 * i * embeddingDim, embeddingDim),
        }));
      }),
    );
  }

  /** The instance's memory goes when nothing refers to it. */
  close() {
    this.#calls["pocketnet_context_destroy"](this.#context);
    this.#calls["pocketnet_close"](this.#model);
    this.#calls["free"](this.#content);
  }

  /** @param {number} at */
  #face(at) {
    const floats = this.#floats(at, 16);
    const landmarks = /** @type {Face["landmarks"]} */ (
      Array.from({ length: 5 }, (_, i) => [floats[4 + 2 * i], floats[5 + 2 * i]])
    );
    const box = /** @type {Face["box"]} */ (Array.from(floats.subarray(0, 4)));
    return { box, landmarks, score: floats[14], quality: floats[15], turn: this.#view(at + 64, 4).getInt32(0, true) };
  }

  #query() {
    return this.#with(INFO_BYTES, (at) => {
      this.#view(at, 4).setUint32(0, INFO_BYTES, true);
      this.#call("query", this.#model, at);
      const facts = this.#view(at, INFO_BYTES);
      const fact = (/** @type {number} */ i) => facts.getUint32(4 * i, true);
      const metadata = this.#bytes(fact(9), fact(10)).slice();
      return {
        fileVersion: fact(1),
        embeddingDim: fact(2),
        cropSide: fact(3),
        takesPhotos: fact(4) === 1,
        halfPrecision: fact(5) === 1,
        defaultThreshold: fact(7),
        isa: this.#text(fact(8)),
        metadata: JSON.parse(new TextDecoder().decode(metadata)),
        space: Array.from(this.#bytes(at + 44, 32), (byte) => byte.toString(16).padStart(2, "0")).join(""),
        thresholds: fact(6),
      };
    });
  }

  #thresholds() {
    return this.#with(16, (at) =>
      Array.from({ length: this.info.thresholds }, (_, i) => {
        this.#call("threshold", this.#model, i, at, at + 8);
        const found = this.#view(at, 16);
        return { cosine: found.getFloat64(0, true), falseAcceptRate: found.getFloat64(8, true) };
      }),
    );
  }

  /**
   * @template T
   * @param {Pixels} image
   * @param {(image: number) => T} use
   */
  #withImage(image, use) {
    const bytes = 3 * image.width * image.height;
    return this.#with(IMAGE_BYTES, (at) =>
      this.#with(bytes, (pixels) => {
        writeRgb(image, this.#bytes(pixels, bytes));
        const stated = this.#view(at, IMAGE_BYTES);
        [pixels, 0, 0, 0, image.width, image.height, 0].forEach((value, i) => stated.setUint32(4 * i, value, true));
        return use(at);
      }),
    );
  }

  /**
   * What a call writes through a pointer to a pointer.
   * @param {(out: number) => void} call
   */
  #made(call) {
    return this.#with(4, (out) => {
      call(out);
      return this.#view(out, 4).getUint32(0, true);
    });
  }

  /**
   * @param {string} name
   * @param {...number} args
   */
  #call(name, ...args) {
    const status = this.#calls[`pocketnet_${name}`](...args);
    if (status !== 0) throw new PocketNetError(statusOf(status), this.#text(this.#calls["pocketnet_message"]()));
  }

  /**
   * @template T
   * @param {number} bytes
   * @param {(at: number) => T} use
   */
  #with(bytes, use) {
    const at = this.#take(bytes);
    try {
      return use(at);
    } finally {
      this.#calls["free"](at);
    }
  }

  /** @param {number} bytes */
  #take(bytes) {
    const at = this.#calls["aligned_alloc"](ALIGNMENT, Math.ceil(Math.max(bytes, 1) / ALIGNMENT) * ALIGNMENT) >>> 0;
    if (at === 0) throw new PocketNetError("OUT_OF_MEMORY", "there is not enough memory");
    return at;
  }

  /**
   * Views are made anew for each use: what grows the memory takes its buffer away.
   * @param {number} at
   * @param {number} length
   */
  #bytes(at, length) {
    return new Uint8Array(this.#memory.buffer, at, length);
  }

  /**
   * @param {number} at
   * @param {number} length
   */
  #view(at, length) {
    return new DataView(this.#memory.buffer, at, length);
  }

  /**
   * A copy.
   * @param {number} at
   * @param {number} length
   */
  #floats(at, length) {
    return new Float32Array(this.#memory.buffer, at, length).slice();
  }

  /** @param {number} at */
  #text(at) {
    const bytes = new Uint8Array(this.#memory.buffer, at);
    return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
  }
}
