// What the package in node makes of images: run.mjs PACKAGE FILE REQUESTS, a JSON file of {crops, photos}, each a list of
// [path of the pixels, width, height]. Prints {info, thresholds, crops, photos} as JSON.
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const [folder, file, requests] = process.argv.slice(2);
const { PocketNet } = await import(new URL("src/pocketnet.js", `${pathToFileURL(folder)}/`).href);
const { crops, photos } = JSON.parse(await readFile(requests, "utf8"));
const image = async ([path, width, height]) => ({ data: new Uint8Array(await readFile(path)), width, height });
const plain = (face) => ({ ...face, embedding: Array.from(face.embedding) });

const model = await PocketNet.open(pathToFileURL(file));
const answer = { info: model.info, thresholds: model.thresholds, photos: [] };
answer.crops = (await model.embed(await Promise.all(crops.map(image)))).map((row) => Array.from(row));
for (const photo of photos) answer.photos.push((await model.analyze(await image(photo))).map(plain));
model.close();
console.log(JSON.stringify(answer));
