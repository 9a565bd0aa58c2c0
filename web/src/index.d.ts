/** What went wrong: a `pocketnet_status` of the C library by its name. */
export type Status =
  | "INVALID_ARGUMENT"
  | "IO"
  | "BAD_FILE"
  | "UNSUPPORTED"
  | "OUT_OF_MEMORY"
  | "LIMIT"
  | "INTERNAL";

/** Every error of this package; `message` is the library's own. */
export class PocketNetError extends Error {
  constructor(status: Status, message: string);
  readonly status: Status;
}

/** Pixels from the top left: 4 bytes each as in `ImageData`, whose alpha is not looked at, or 3 bytes of RGB. */
export interface Pixels {
  readonly data: Uint8ClampedArray | Uint8Array;
  readonly width: number;
  readonly height: number;
}

export interface Face {
  /** Left, top, width, height, in pixels of the photo. */
  box: [number, number, number, number];
  /** x and y of the left and right eye, the nose, the left and right corner of the mouth, as seen in the photo. */
  landmarks: [Point, Point, Point, Point, Point];
  /** How sure the detector is, 0 to 1. */
  score: number;
  /** How far decisions about the face can be relied on, 0 to 1. */
  quality: number;
  /** Clockwise degrees by which the photo must be turned for the face to be upright: 0, 90, 180 or 270. */
  turn: number;
  /** Of length 1. */
  embedding: Float32Array<ArrayBuffer>;
}

export type Point = [x: number, y: number];

/** Two faces whose cosine is at least `cosine` count as one person's; of different people's pairs, the rate does. */
export interface Threshold {
  cosine: number;
  falseAcceptRate: number;
}

export interface Info {
  fileVersion: number;
  embeddingDim: number;
  /** Crops are `cropSide` x `cropSide`. */
  cropSide: number;
  takesPhotos: boolean;
  halfPrecision: boolean;
  /** How many thresholds the file has. */
  thresholds: number;
  /** The number of the one that the weights' maker recommends. */
  defaultThreshold: number;
  /** "wasm128" or "wasm128_relaxed". */
  isa: string;
  /** What the exporter says of the file. */
  metadata: Record<string, unknown>;
  /** SHA-256 of the weights: embeddings of other ones are not comparable. */
  space: string;
}

export interface ModuleOptions {
  /** Whether to take the module with relaxed SIMD; by default, where the engine has it. */
  relaxed?: boolean;
  /** The folder of the two modules; by default `wasm/` of this package. */
  modules?: string | URL;
}

export interface OpenOptions extends ModuleOptions {
  /** Whether calls run in a worker, so that the page stays responsive. */
  worker?: boolean;
  /** The largest side of photos in pixels, by which memory is taken; 2048 by default. */
  maxPhotoSide?: number;
  /** Whether no photos come, which take most of the memory. */
  cropsOnly?: boolean;
}

/** A network, and the face detector where its file has one. Calls are answered one after another. */
export class PocketNet {
  private constructor();
  /**
   * @param source The content of a .pnf file, or its address.
   * @throws PocketNetError
   */
  static open(source: string | URL | ArrayBuffer | Uint8Array, options?: OpenOptions): Promise<PocketNet>;
  readonly info: Info;
  readonly thresholds: Threshold[];
  /** The threshold that the weights' maker recommends; undefined where the file has none. */
  readonly defaultThreshold: Threshold | undefined;
  /** Embed aligned crops: one embedding of length 1 each. */
  embed(crops: Pixels | readonly Pixels[]): Promise<Float32Array<ArrayBuffer>[]>;
  /** The faces of a photo, the most prominent first, `maxFaces` at most (256 by default). */
  analyze(photo: Pixels, options?: { maxFaces?: number }): Promise<Face[]>;
  /** Give the memory back. Calls that are not yet answered are refused. */
  close(): void;
}

/** The cosine of two embeddings. */
export function compare(one: ArrayLike<number>, other: ArrayLike<number>): number;
