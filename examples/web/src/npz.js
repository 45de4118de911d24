// Reads numpy's .npz: a zip archive of .npy arrays, stored or deflated.
// The layouts: APPNOTE.TXT of the zip format, and numpy.lib.format.

const END = 0x06054b50;
const ENTRY = 0x02014b50;
const DEFLATED = 8;
const TYPES = { "<f4": Float32Array, "<f8": Float64Array, "<i4": Int32Array, "<i8": BigInt64Array };

/** Returns the arrays of an .npz file by name, each as `{ data, shape }`. */
export async function readNpz(bytes) {
  const arrays = {};
  for (const { name, content } of await unzip(bytes)) {
    arrays[name.replace(/\.npy$/, "")] = readNpy(content, name);
  }
  return arrays;
}

async function unzip(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let end = bytes.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== END) end--;
  if (end < 0) throw new Error("not a zip archive: it has no end record");
  const files = [];
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    if (view.getUint32(at, true) !== ENTRY) throw new Error("the zip directory is damaged");
    const method = view.getUint16(at + 10, true);
    const size = view.getUint32(at + 20, true);
    const nameSize = view.getUint16(at + 28, true);
    const name = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + nameSize));
    const header = view.getUint32(at + 42, true);
    const extra = view.getUint16(header + 26, true) + view.getUint16(header + 28, true);
    const packed = bytes.subarray(header + 30 + extra, header + 30 + extra + size);
    files.push({ name, content: method === DEFLATED ? await inflate(packed) : packed });
    at += 46 + nameSize + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
  }
  return files;
}

async function inflate(packed) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function readNpy(bytes, name) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const isFirst = bytes[6] === 1;
  const start = isFirst ? 10 : 12;
  const size = isFirst ? view.getUint16(8, true) : view.getUint32(8, true);
  const header = new TextDecoder().decode(bytes.subarray(start, start + size));
  const dtype = /'descr':\s*'([^']+)'/.exec(header)?.[1];
  const sides = /'shape':\s*\(([^)]*)\)/.exec(header)?.[1];
  const type = TYPES[dtype];
  if (type === undefined || sides === undefined || /'fortran_order':\s*True/.test(header)) {
    throw new Error(`${name}: this page reads only C-ordered ${Object.keys(TYPES).join(", ")}`);
  }
  const shape = sides.split(",").filter((side) => side.trim() !== "").map(Number);
  return { data: new type(bytes.slice(start + size).buffer), shape };
}
