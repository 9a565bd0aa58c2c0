// The browser's package against onnxruntime-web and TensorFlow.js in Debian's Chromium, one thread each, in turns.
import { createReadStream, existsSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { extname, join, resolve } from "node:path";
import { parseArgs } from "node:util";

const USAGE = `usage: node benchmarks/web.mjs --packages FOLDER --pnf FILE --onnx FILE [--graph FOLDER] [--rounds 60] [--json]

  make web
  npm install --prefix build/web_bench onnxruntime-web playwright-core \\
    @tensorflow/tfjs-core @tensorflow/tfjs-backend-wasm
  pocketnet export --no-flip -o build/web_bench/m.pnf
  pocketnet export --kernels aten -o build/web_bench/m.onnx
  python benchmarks/web_graph.py build/web_bench/m.onnx build/web_bench/graph    # for TensorFlow.js

--packages is the folder of npm's --prefix; --pnf and --onnx are one network without the mirrored sum.`;

const OPTIONS = {
  packages: { type: "string" },
  pnf: { type: "string" },
  onnx: { type: "string" },
  graph: { type: "string" },
  rounds: { type: "string", default: "60" },
  json: { type: "boolean", default: false },
  help: { type: "boolean", default: false },
};
const TYPES = { ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm" };
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const WARM_UP = 5;

/** What runs in the page: times of each subject, and the least cosine with the first one. */
async function measure([rounds, warmUp, withTensorFlow]) {
  const { PocketNet, compare } = await import("/web/src/pocketnet.js");
  const onnxruntime = await import("/onnxruntime/ort.wasm.min.mjs");
  const side = 112;
  // A picture without a face takes as long as one with.
  const pixels = Uint8Array.from({ length: 3 * side * side }, (_, i) => 128 + 90 * Math.sin(i / 50) + (i % 31));
  const planes = new Float32Array(pixels.length);
  pixels.forEach((byte, i) => (planes[(i % 3) * side * side + Math.floor(i / 3)] = (byte / 255 - 0.5) / 0.5));

  const subjects = {};
  for (const relaxed of [true, false]) {
    const model = await PocketNet.open("/m.pnf", { relaxed, cropsOnly: true });
    const crop = { data: pixels, width: side, height: side };
    subjects[`pocketnet-fast, ${model.info.isa}`] = async () => (await model.embed(crop))[0];
  }
  onnxruntime.env.wasm.numThreads = 1;
  const session = await onnxruntime.InferenceSession.create("/m.onnx", {
    executionProviders: ["wasm"],
    graphOptimizationLevel: "all",
  });
  subjects[`onnxruntime-web ${onnxruntime.env.versions.web}`] = async () => {
    const images = new onnxruntime.Tensor("float32", planes, [1, 3, side, side]);
    return (await session.run({ images })).embeddings.data;
  };

  if (withTensorFlow) {
    // Its bundles for pages without a bundler: a global each.
    for (const script of ["tfjs-core/dist/tf-core.min.js", "tfjs-backend-wasm/dist/tf-backend-wasm.min.js"]) {
      await new Promise((done, failed) => {
        const element = document.createElement("script");
        Object.assign(element, { src: `/tensorflow/${script}`, onload: done, onerror: () => failed(Error(script)) });
        document.head.append(element);
      });
    }
    tf.wasm.setWasmPaths("/tensorflow/tfjs-backend-wasm/dist/");
    tf.wasm.setThreadsCount(1);
    if (!(await tf.setBackend("wasm"))) throw Error("TensorFlow.js has no WebAssembly here");
    const graph = await (await fetch("/graph/graph.json")).json();
    const weights = new Float32Array(await (await fetch("/graph/weights.bin")).arrayBuffer());
    const constants = graph.constants.map(({ shape, offset }) => {
      const count = shape.reduce((a, b) => a * b, 1);
      return tf.tensor(weights.slice(offset, offset + count), shape);
    });
    const last = new Map();
    graph.operations.forEach(({ inputs }, i) => inputs.forEach((name) => last.set(name, i)));
    const convolve = (fused) => (x, { weights, bias, stride, pad }) =>
      fused({ x, filter: constants[weights], strides: stride, pad, dimRoundingMode: "floor", bias: constants[bias] });
    const apply = {
      convolution: convolve(tf.fused.conv2d),
      depthwise: convolve(tf.fused.depthwiseConv2d),
      prelu: (x, { slope }) => tf.prelu(x, constants[slope]),
      add: (x, { second }) => tf.add(x, second),
      concat: (x, { all }) => tf.concat(all, 3),
      maxpool: (x, { stride }) => tf.maxPool(x, 3, stride, 1, "floor"),
      affine: (x, { scale, shift }) => tf.add(tf.mul(x, constants[scale]), constants[shift]),
      slice: (x, { begin }) => tf.slice(x, begin),
      flatten: (x) => tf.reshape(x, [1, -1]),
    };
    const image = Float32Array.from(pixels, (byte) => (byte / 255 - 0.5) / 0.5);
    subjects[`TensorFlow.js ${tf.version_core}`] = async () => {
      const states = new Map([[graph.input, tf.tensor(image, [1, side, side, 3])]]);
      graph.operations.forEach((operation, i) => {
        const all = operation.inputs.map((name) => states.get(name));
        states.set(operation.output, apply[operation.op](all[0], { ...operation, all, second: all[1] }));
        for (const name of new Set(operation.inputs)) {
          if (last.get(name) !== i) continue;
          states.get(name).dispose();
          states.delete(name);
        }
      });
      const embedding = await states.get(graph.output).data();
      states.get(graph.output).dispose();
      return embedding;
    };
  }

  const names = Object.keys(subjects);
  const times = Object.fromEntries(names.map((name) => [name, []]));
  const first = await subjects[names[0]]();
  const cosines = {};
  for (const name of names) {
    cosines[name] = compare(first, await subjects[name]());
    for (let i = 0; i < warmUp; i++) await subjects[name]();
  }
  for (let round = 0; round < rounds; round++) {
    // Each begins as often as the others, behind each of them.
    const order = names.map((_, i) => names[(i * (1 + (round % 2)) + round) % names.length]);
    for (const name of order) {
      const begin = performance.now();
      await subjects[name]();
      times[name].push(performance.now() - begin);
    }
  }
  return { times, cosines };
}

/** Files of some folders and single files at addresses. */
function serve(places) {
  const server = createServer((request, response) => {
    const path = new URL(request.url, "http://here").pathname;
    const place = Object.keys(places).find((prefix) => path.startsWith(prefix));
    if (path === "/") {
      response.setHeader("Content-Type", "text/html");
      response.end("<!doctype html><title>Benchmark</title><link rel=icon href=data:,>");
      return;
    }
    const file = place && join(places[place], path.slice(place.length));
    if (!file || !existsSync(file)) {
      response.statusCode = 404;
      response.end();
      return;
    }
    response.setHeader("Content-Type", TYPES[extname(file)] ?? "application/octet-stream");
    createReadStream(file).pipe(response);
  });
  return new Promise((done) => server.listen(0, "127.0.0.1", () => done(server)));
}

const quantile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];

const { values } = parseArgs({ options: OPTIONS });
if (values.help || !values.packages || !values.pnf || !values.onnx) {
  console.log(USAGE);
  process.exit(values.help ? 0 : 2);
}
const packages = resolve(values.packages);
const { chromium } = createRequire(join(packages, "package.json"))("playwright-core");
const server = await serve({
  "/web/": resolve(import.meta.dirname, "../web"),
  "/onnxruntime/": join(packages, "node_modules/onnxruntime-web/dist"),
  "/tensorflow/": join(packages, "node_modules/@tensorflow"),
  ...(values.graph && { "/graph/": resolve(values.graph) }),
  "/m.pnf": resolve(values.pnf),
  "/m.onnx": resolve(values.onnx),
});
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: FLAGS });
try {
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  const { times, cosines } = await page.evaluate(measure, [Number(values.rounds), WARM_UP, values.graph !== undefined]);
  const rows = Object.entries(times).map(([subject, all]) => {
    const sorted = all.toSorted((a, b) => a - b);
    const [best, low, median, high] = [0, 0.25, 0.5, 0.75].map((share) => quantile(sorted, share));
    return { subject, median, low, high, best, cosine: cosines[subject] };
  });
  const answer = { chromium: browser.version(), rounds: Number(values.rounds), rows };
  if (values.json) {
    console.log(JSON.stringify(answer));
  } else {
    console.log(`Chromium ${answer.chromium}, ${answer.rounds} rounds, milliseconds per crop`);
    for (const { subject, median, low, high, best, cosine } of rows) {
      const figures = [median, low, high, best].map((value) => value.toFixed(1).padStart(6)).join(" ");
      console.log(`${subject.padEnd(34)} median, quartiles, best ${figures}  cosine ${cosine.toFixed(6)}`);
    }
  }
} finally {
  await browser.close();
  server.close();
}
