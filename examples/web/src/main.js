// The page: two models, one image, both answers.
import { SIDE, Sheet, paintImage } from "./drawing.js";
import { BITS, FIRST_BITS, FLOAT_FILE, SAMPLES_FILE, convertedFile } from "./files.js";
import { readNpz } from "./npz.js";
import { Tensor, download, load, loadInTurn, run } from "./runtime.js";
import * as view from "./view.js";

const LOADS = 7; // the load time shown is the median of so many
const PIXELS = SIDE * SIDE;
const element = (id) => document.getElementById(id);

const downloads = new Map(); // converted models by bit width
let samples; // { image: { data, shape }, label }
let floatBytes;
let models; // { bits, float, converted }: sessions
let image; // the 8x8 image that both models see
let queue = Promise.resolve(); // runs of a session must not overlap

/** Does a task after all earlier ones; what goes wrong is shown on the page. */
function enqueue(task) {
  queue = queue.then(task).catch((error) => {
    view.showStatus("");
    view.showError(error);
  });
}

async function probabilities(session, images) {
  const shape = [images.length / PIXELS, 1, SIDE, SIDE];
  const outputs = await run(session, { image: new Tensor("float32", images, shape) });
  return outputs.probabilities.data;
}

/** Returns how many of the held-out images a model classifies rightly. */
async function countRight(session) {
  const scores = await probabilities(session, samples.image.data);
  const labels = Array.from(samples.label.data, Number);
  return labels.filter((label, at) => view.best(scores.subarray(10 * at, 10 * at + 10)) === label)
    .length;
}

/** Loads both models at this width, in turn and several times, and shows what that took. */
async function choose(bits) {
  if (Number(element("bits").elements.bits.value) !== bits) return; // a newer choice is waiting
  view.showStatus(`Loading the ${bits}-bit model …`);
  if (!downloads.has(bits)) downloads.set(bits, await download(convertedFile(bits)));
  const bytes = downloads.get(bits);
  await Promise.all([models?.float.release(), models?.converted.release()]);
  const [float, converted] = await loadInTurn([floatBytes, bytes], LOADS);
  models = { bits, float: float.session, converted: converted.session };
  const shared = { originalBytes: floatBytes.length, images: samples.label.data.length };
  view.showBits(bits);
  for (const [name, { session, times }, size] of [
    ["float", float, floatBytes.length],
    ["converted", converted, bytes.length],
  ]) {
    const milliseconds = times.toSorted((a, b) => a - b)[times.length >> 1];
    const right = await countRight(session);
    view.showModel(name, { ...shared, bytes: size, milliseconds, right });
  }
  await compare(image);
  view.showStatus("");
}

/** Runs both models on an image; skips it where a newer one is waiting. */
async function compare(wanted) {
  if (wanted !== image) return;
  const floats = await probabilities(models.float, wanted);
  const converted = await probabilities(models.converted, wanted);
  view.showProbabilities(floats, converted, models.bits);
}

function see(seen) {
  image = seen;
  paintImage(element("seen"), seen);
  enqueue(() => compare(seen));
}

function makeBitsChoice() {
  for (const bits of BITS) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    Object.assign(input, { type: "radio", name: "bits", value: bits, checked: bits === FIRST_BITS });
    input.addEventListener("change", () => enqueue(() => choose(bits)));
    const text = document.createElement("span");
    text.textContent = String(bits);
    label.append(input, text);
    element("bits-options").append(label);
  }
}

/** Adds a button per digit; each press shows the next held-out image of that digit. */
function makeSampleButtons(sheet) {
  const labels = Array.from(samples.label.data, Number);
  for (let digit = 0; digit < 10; digit++) {
    const own = labels.flatMap((label, at) => (label === digit ? [at] : []));
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = String(digit);
    button.setAttribute("aria-label", `Next sample of a ${digit}`);
    button.addEventListener("click", () => {
      const at = own.shift();
      own.push(at);
      const pixels = samples.image.data.slice(at * PIXELS, (at + 1) * PIXELS);
      sheet.show(pixels);
      see(pixels);
    });
    element("samples").append(button);
  }
}

async function start() {
  view.makeRows();
  makeBitsChoice();
  const sheet = new Sheet(element("sheet"), see);
  element("clear").addEventListener("click", () => {
    sheet.clear();
    see(new Float32Array(PIXELS));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    sheet.paint();
    if (image) paintImage(element("seen"), image);
  });
  view.showStatus("Loading the runtime and the models …");
  samples = await readNpz(await download(SAMPLES_FILE));
  floatBytes = await download(FLOAT_FILE);
  // The first session also starts the runtime; the load times shown leave that out.
  await (await load(floatBytes)).session.release();
  image = samples.image.data.slice(0, PIXELS);
  makeSampleButtons(sheet);
  sheet.show(image);
  paintImage(element("seen"), image);
  await choose(Number(element("bits").elements.bits.value));
}

enqueue(start);
