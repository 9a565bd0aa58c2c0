import { PocketNet, compare } from "../src/pocketnet.js";

/** @typedef {import("../src/index.js").Face} Face */
/** @typedef {import("../src/index.js").PocketNet} Model */

const MOST_SIDE = 1600; // pixels; the detector looks at no more
const COMPARED = "#36e0cf";
const OTHERS = "#ffd166";

/**
 * @template {Element} T
 * @param {ParentNode} root
 * @param {string} selector
 * @param {new () => T} kind
 */
function find(root, selector, kind) {
  const found = root.querySelector(selector);
  if (!(found instanceof kind)) throw new Error(`the page has no ${selector}`);
  return found;
}

const errorLine = find(document, "#error", HTMLElement);
const result = find(document, "#result", HTMLElement);
const verdict = find(document, "#verdict", HTMLElement);
const figures = find(document, "#figures", HTMLElement);
const rates = find(document, "#far", HTMLSelectElement);

/** @param {unknown} error */
function showError(error) {
  errorLine.textContent = error instanceof Error ? error.message : String(error);
  errorLine.hidden = false;
}

/** @type {Promise<Model>} */
const opened = PocketNet.open("faces.pnf", { worker: true, maxPhotoSide: MOST_SIDE });

class Panel {
  #root = /** @type {HTMLElement} */ (
    find(document, "#panel", HTMLTemplateElement).content.firstElementChild?.cloneNode(true)
  );
  #stage = find(this.#root, ".stage", HTMLElement);
  #hint = find(this.#root, ".hint", HTMLElement);
  #canvas = find(this.#root, "canvas", HTMLCanvasElement);
  #video = find(this.#root, "video", HTMLVideoElement);
  #open = find(this.#root, ".open", HTMLButtonElement);
  #shoot = find(this.#root, ".shoot", HTMLButtonElement);
  #close = find(this.#root, ".close", HTMLButtonElement);
  #note = find(this.#root, ".note", HTMLElement);
  #turns = 0; // photos so far; what an earlier one's call finds is of no interest
  #shown = false;
  /** @type {Face | undefined} */
  face;

  /** @param {string} title */
  constructor(title) {
    this.title = title;
    find(this.#root, "h2", HTMLElement).textContent = title;
    for (const unseen of this.#root.querySelectorAll("span.unseen")) unseen.textContent = ` (${title.toLowerCase()})`;
    const input = find(this.#root, "input", HTMLInputElement);
    input.addEventListener("change", () => {
      if (input.files?.length) this.#choose(input.files[0]);
      input.value = ""; // the same file may be chosen again
    });
    this.#open.addEventListener("click", () => this.#openCamera());
    this.#shoot.addEventListener("click", () => this.#takePicture());
    this.#close.addEventListener("click", () => this.#closeCamera());
    this.#root.addEventListener("keydown", (event) => event.key === "Escape" && this.#closeCamera());
    for (const kind of /** @type {const} */ (["dragover", "dragleave", "drop"])) {
      this.#root.addEventListener(kind, (event) => {
        event.preventDefault();
        this.#stage.classList.toggle("over", kind === "dragover");
        const file = kind === "drop" ? event.dataTransfer?.files[0] : undefined;
        if (file) this.#choose(file);
      });
    }
    find(document, "#photos", HTMLElement).append(this.#root);
  }

  /** @param {File} file */
  async #choose(file) {
    this.#closeCamera();
    errorLine.hidden = true;
    /** @type {ImageBitmap} */
    let picture;
    try {
      picture = await createImageBitmap(file, { imageOrientation: "from-image" });
    } catch {
      showError(new Error("This browser cannot read the file as a picture."));
      return;
    }
    await this.#look(picture, picture.width, picture.height);
  }

  /**
   * @param {CanvasImageSource} picture
   * @param {number} width
   * @param {number} height
   */
  async #look(picture, width, height) {
    const turn = ++this.#turns;
    this.face = undefined;
    this.#note.textContent = "Looking for faces";
    const scale = Math.min(1, MOST_SIDE / Math.max(width, height));
    this.#canvas.width = Math.max(1, Math.round(width * scale));
    this.#canvas.height = Math.max(1, Math.round(height * scale));
    const context = this.#canvas.getContext("2d", { willReadFrequently: true });
    if (context === null) throw new Error("this browser draws on no canvas");
    context.fillStyle = "#fff"; // behind transparent pictures
    context.fillRect(0, 0, this.#canvas.width, this.#canvas.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, 0, 0, this.#canvas.width, this.#canvas.height);
    this.#shown = true;
    this.#show(this.#canvas);
    decide();
    try {
      const pixels = context.getImageData(0, 0, this.#canvas.width, this.#canvas.height);
      const faces = await (await opened).analyze(pixels);
      if (turn !== this.#turns) return;
      this.#draw(context, faces);
      this.face = faces[0];
    } catch (error) {
      if (turn !== this.#turns) return;
      this.#note.textContent = "Not compared";
      showError(error);
    }
    decide();
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Face[]} faces
   */
  #draw(context, faces) {
    const count = faces.length;
    const found = count === 1 ? "One face found" : `${count || "No"} faces found`;
    this.#note.textContent = found + (count > 1 ? "; the most prominent is compared" : "");
    this.#canvas.setAttribute("aria-label", `${this.title}: ${this.#note.textContent}`);
    const unit = Math.max(this.#canvas.width, this.#canvas.height) / 250;
    faces.forEach(({ box, landmarks }, place) => {
      context.setLineDash(place ? [6 * unit, 4 * unit] : []);
      for (const [line, thickness] of /** @type {[string, number][]} */ ([
        ["rgb(0 0 0 / 0.6)", 2.4],
        [place ? OTHERS : COMPARED, 1.2],
      ])) {
        context.strokeStyle = line;
        context.lineWidth = thickness * unit;
        context.strokeRect(...box);
      }
      context.fillStyle = place ? OTHERS : COMPARED;
      for (const [x, y] of landmarks) {
        context.beginPath();
        context.arc(x, y, 1.5 * unit, 0, 2 * Math.PI);
        context.fill();
      }
    });
  }

  /** @param {HTMLElement} element */
  #show(element) {
    for (const each of [this.#hint, this.#canvas, this.#video]) each.hidden = each !== element;
    this.#stage.classList.toggle("filled", element !== this.#hint);
    const filming = element === this.#video;
    this.#open.hidden = filming;
    this.#shoot.hidden = this.#close.hidden = !filming;
  }

  async #openCamera() {
    errorLine.hidden = true;
    if (!navigator.mediaDevices) {
      showError(new Error("Browsers open the camera on pages of this machine, or by HTTPS, alone."));
      return;
    }
    try {
      this.#video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
    } catch (error) {
      const refused = error instanceof DOMException && error.name === "NotAllowedError";
      showError(new Error(refused ? "The camera was not allowed." : "No camera can be used."));
      return;
    }
    this.#show(this.#video);
    this.#shoot.focus();
    await this.#video.play();
  }

  #closeCamera() {
    const stream = this.#video.srcObject;
    if (!(stream instanceof MediaStream)) return;
    for (const track of stream.getTracks()) track.stop();
    this.#video.srcObject = null;
    this.#show(this.#shown ? this.#canvas : this.#hint);
    this.#open.focus();
  }

  async #takePicture() {
    const { videoWidth, videoHeight } = this.#video;
    if (videoWidth === 0) return; // its first frame has not come yet
    const picture = await createImageBitmap(this.#video);
    this.#closeCamera();
    await this.#look(picture, videoWidth, videoHeight);
  }
}

const panels = [new Panel("First photo"), new Panel("Second photo")];

/** @type {readonly import("../src/index.js").Threshold[] | null} */
let thresholds = null; // until the network is there

function decide() {
  if (thresholds === null) return;
  const [one, other] = panels.map((panel) => panel.face);
  result.classList.remove("same");
  figures.textContent = "";
  if (!one || !other) {
    verdict.textContent = one || other ? "Choose another photo" : "Choose two photos";
    return;
  }
  const cosine = compare(one.embedding, other.embedding);
  const chosen = thresholds[rates.selectedIndex];
  if (chosen === undefined) {
    verdict.textContent = `Cosine ${cosine.toFixed(3)}`;
    return;
  }
  const same = cosine >= chosen.cosine;
  verdict.textContent = same ? "The same person" : "Two different people";
  figures.textContent =
    `Cosine ${cosine.toFixed(3)}; the threshold for a false accept rate of ${rates.selectedOptions[0].text} ` +
    `is ${chosen.cosine.toFixed(3)}.`;
  result.classList.toggle("same", same);
}

/** @param {Model} model */
function ready(model) {
  const { info } = model;
  thresholds = model.thresholds;
  for (const { falseAcceptRate } of thresholds) {
    rates.add(new Option(`1 in ${Math.round(1 / falseAcceptRate).toLocaleString("en")}`));
  }
  rates.selectedIndex = thresholds.length > 0 ? info.defaultThreshold : -1;
  rates.addEventListener("change", decide);
  find(document, "#rates", HTMLElement).hidden = thresholds.length === 0;
  find(document, "#model", HTMLElement).textContent = `${info.metadata["model"]}, ${info.isa}`;
  decide();
}

opened.then(ready).catch((error) => {
  verdict.textContent = "The network could not be loaded";
  showError(error);
});
