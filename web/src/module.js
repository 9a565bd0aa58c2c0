// The compiled library: which of its two modules the engine takes, and an instance of it.
import { PocketNetError } from "./errors.js";

/** @typedef {import("./index.js").ModuleOptions} ModuleOptions */

const HEADER = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00];
// Each is the shortest module that an engine without the feature refuses.
const FEATURES = {
  // () -> (): an empty try, in the encoding of 2021 that the modules have.
  exceptions: [
    0x01, 0x04, 0x01, 0x60, 0x00, 0x00, 0x03, 0x02, 0x01, 0x00, 0x0a, 0x07, 0x01, 0x05, 0x00, 0x06, 0x40, 0x0b, 0x0b,
  ],
  // () -> v128: i32.const 0, i8x16.splat.
  "128-bit SIMD": [
    0x01, 0x05, 0x01, 0x60, 0x00, 0x01, 0x7b, 0x03, 0x02, 0x01, 0x00, 0x0a, 0x08, 0x01, 0x06, 0x00, 0x41, 0x00, 0xfd,
    0x0f, 0x0b,
  ],
  // (v128) -> v128: its argument thrice, f32x4.relaxed_madd.
  "relaxed SIMD": [
    0x01, 0x06, 0x01, 0x60, 0x01, 0x7b, 0x01, 0x7b, 0x03, 0x02, 0x01, 0x00, 0x0a, 0x0d, 0x01, 0x0b, 0x00, 0x20, 0x00,
    0x20, 0x00, 0x20, 0x00, 0xfd, 0x85, 0x02, 0x0b,
  ],
};

/** @param {keyof typeof FEATURES} feature */
export function has(feature) {
  return WebAssembly.validate(new Uint8Array([...HEADER, ...FEATURES[feature]]));
}

/**
 * The bytes behind an address: in a browser what it fetches, elsewhere files, too.
 * @param {string | URL} address
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
export async function read(address) {
  const base = typeof document === "undefined" ? import.meta.url : document.baseURI;
  const url = new URL(address, base);
  if (url.protocol === "file:") {
    const { readFile } = await import("node:fs/promises");
    try {
      return new Uint8Array(await readFile(url));
    } catch (error) {
      throw new PocketNetError("IO", `${url.pathname}: ${/** @type {Error} */ (error).message}`);
    }
  }
  /** @type {Response} */
  let response;
  try {
    response = await fetch(url);
  } catch (error) {
    throw new PocketNetError("IO", `${url}: ${/** @type {Error} */ (error).message}`);
  }
  if (!response.ok) throw new PocketNetError("IO", `${url}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}

/**
 * @param {ModuleOptions} options
 * @returns {Promise<WebAssembly.Module>}
 */
export async function compile(options) {
  for (const feature of /** @type {const} */ (["128-bit SIMD", "exceptions"])) {
    if (!has(feature)) throw new PocketNetError("UNSUPPORTED", `this WebAssembly engine has no ${feature}`);
  }
  const relaxed = options.relaxed ?? has("relaxed SIMD");
  if (relaxed && !has("relaxed SIMD")) {
    throw new PocketNetError("UNSUPPORTED", "this WebAssembly engine has no relaxed SIMD");
  }
  const folder = options.modules ?? new URL("../wasm/", import.meta.url);
  const content = await read(new URL(relaxed ? "pocketnet_relaxed.wasm" : "pocketnet.wasm", folder));
  return WebAssembly.compile(content);
}

/**
 * @param {WebAssembly.Module} module
 * @returns {Promise<WebAssembly.Exports>}
 */
export async function instantiate(module) {
  const { exports } = await WebAssembly.instantiate(module, {
    // Whoever holds a view of the memory looks at its buffer again.
    env: { emscripten_notify_memory_growth() {} },
    wasi_snapshot_preview1: {
      /** @param {number} code */
      proc_exit(code) {
        throw new PocketNetError("INTERNAL", `the library ended with ${code}`);
      },
    },
  });
  /** @type {() => void} */ (exports["_initialize"])();
  return exports;
}
