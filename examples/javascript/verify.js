// Whether two photos show the same person, in JavaScript. Photos are binary PPM files, as `djpeg` and ImageMagick write
// them; in a browser, ImageData is what a canvas gives.
//
//   node verify.js faces.pnf one.ppm other.ppm
import { readFile } from "node:fs/promises";
import { PocketNet, PocketNetError, compare } from "pocketnet-fast";

/** @param {string} path */
async function readPpm(path) {
  const content = new Uint8Array(await readFile(path));
  const header = /^P6\s+(\d{1,5})\s+(\d{1,5})\s+255\s/.exec(new TextDecoder("latin1").decode(content.subarray(0, 64)));
  if (header === null) throw new Error(`${path}: not a binary PPM file of 8 bits`);
  return { data: content.subarray(header[0].length), width: Number(header[1]), height: Number(header[2]) };
}

/** @param {string[]} paths */
async function verify([file, ...photos]) {
  if (photos.length !== 2) throw new Error("usage: node verify.js faces.pnf one.ppm other.ppm");
  const model = await PocketNet.open(new Uint8Array(await readFile(file)));
  const embeddings = [];
  for (const photo of photos) {
    const faces = await model.analyze(await readPpm(photo), { maxFaces: 1 });
    if (faces.length === 0) throw new Error(`${photo}: no face`);
    const [left, top] = faces[0].box;
    console.log(`${photo}: a face at ${left.toFixed(0)}, ${top.toFixed(0)}, quality ${faces[0].quality.toFixed(2)}`);
    embeddings.push(faces[0].embedding);
  }
  const threshold = model.defaultThreshold;
  if (threshold === undefined) throw new Error(`${file}: its weights have no threshold`);
  const cosine = compare(embeddings[0], embeddings[1]);
  const same = cosine >= threshold.cosine;
  const verdict = same ? "the same person" : "different people";
  console.log(
    `cosine ${cosine.toFixed(4)}, ${verdict} at ${threshold.cosine.toFixed(4)} ` +
      `(false accept rate ${threshold.falseAcceptRate})`,
  );
  model.close();
  return same ? 0 : 1;
}

try {
  process.exitCode = await verify(process.argv.slice(2));
} catch (error) {
  const known = error instanceof PocketNetError ? `${error.status}: ` : "";
  console.error(`${known}${error instanceof Error ? error.message : error}`);
  process.exitCode = 2;
}
