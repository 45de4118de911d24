// The sheet to draw on, and the 8x8 image that the models see of it.

export const SIDE = 8;
const GRID = 32; // the data set counts the ink of a 32x32 bitmap in blocks of 4x4
const BLOCK = GRID / SIDE;
const PEN = 4.5; // in GRID's pixels: about as thick as the strokes of the data set
const LEAST_EXTENT = 0.25; // of the sheet: a dot is not blown up to a blot

/** A canvas with strokes of a pen, or an 8x8 image in their place. */
export class Sheet {
  #canvas;
  #strokes = [];
  #image = null;

  /** `onDraw` is called with the 8x8 image after each change of a stroke. */
  constructor(canvas, onDraw) {
    this.#canvas = canvas;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      if (this.#image !== null) this.clear();
      this.#strokes.push([]);
      this.#extend(event, onDraw);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!canvas.hasPointerCapture(event.pointerId)) return;
      this.#extend(event, onDraw);
    });
  }

  clear() {
    this.#strokes = [];
    this.#image = null;
    this.paint();
  }

  /** Shows an 8x8 image of values from 0 to 1, in place of strokes. */
  show(image) {
    this.#strokes = [];
    this.#image = image;
    this.paint();
  }

  paint() {
    if (this.#image !== null) {
      paintImage(this.#canvas, this.#image);
      return;
    }
    const context = cleared(this.#canvas);
    const { width } = this.#canvas;
    draw(context, this.#strokes, (width / GRID) * PEN, ([x, y]) => [x * width, y * width]);
  }

  #extend(event, onDraw) {
    const box = this.#canvas.getBoundingClientRect();
    const point = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    this.#strokes.at(-1).push(point);
    this.paint();
    onDraw(seen(this.#strokes));
  }
}

/** Paints an 8x8 image of values from 0 to 1 in the canvas's text colour. */
export function paintImage(canvas, image) {
  const context = cleared(canvas);
  const cell = canvas.width / SIDE;
  image.forEach((value, index) => {
    context.globalAlpha = value;
    context.fillRect((index % SIDE) * cell, Math.floor(index / SIDE) * cell, cell, cell);
  });
  context.globalAlpha = 1;
}

/** Returns the strokes as the data set has them: filling the square, ink counted in 64 blocks. */
function seen(strokes) {
  const xs = strokes.flat().map(([x]) => x);
  const ys = strokes.flat().map(([, y]) => y);
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const [top, bottom] = [Math.min(...ys), Math.max(...ys)];
  const scale = (GRID - PEN) / Math.max(right - left, bottom - top, LEAST_EXTENT);
  const place = ([x, y]) => [
    GRID / 2 + (x - (left + right) / 2) * scale,
    GRID / 2 + (y - (top + bottom) / 2) * scale,
  ];
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = GRID;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  draw(context, strokes, PEN, place);
  const pixels = context.getImageData(0, 0, GRID, GRID).data;
  const image = new Float32Array(SIDE * SIDE);
  for (let index = 0; index < GRID * GRID; index++) {
    const row = Math.floor(index / GRID / BLOCK);
    const column = Math.floor((index % GRID) / BLOCK);
    image[row * SIDE + column] += pixels[4 * index + 3] / 255;
  }
  return image.map((ink) => Math.round(ink) / (BLOCK * BLOCK));
}

function draw(context, strokes, width, place) {
  context.lineWidth = width;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(...place(stroke[0]));
    for (const point of stroke) context.lineTo(...place(point));
    context.stroke();
  }
}

function cleared(canvas) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = context.strokeStyle = getComputedStyle(canvas).color;
  return context;
}
