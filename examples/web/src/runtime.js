// Loads and runs ONNX models in onnxruntime's WebAssembly build. Knows no particular model.
import * as ort from "onnxruntime-web/wasm";

// One thread: more need SharedArrayBuffer, which a browser gives only to pages served with the
// headers COOP and COEP, and a static host often cannot set them.
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = {
  wasm: new URL("ort-wasm-simd-threaded.wasm", import.meta.url).href,
};

export const Tensor = ort.Tensor;

/** Returns a file's bytes; an Error with the address and the status where it is not served. */
export async function download(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: the server answered ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

/** Returns a session of the model and the milliseconds that its creation took. */
export async function load(bytes) {
  const start = performance.now();
  const session = await ort.InferenceSession.create(bytes);
  return { session, milliseconds: performance.now() - start };
}

/** Returns the outputs by name. The runs of one session must not overlap. */
export function run(session, feeds) {
  return session.run(feeds);
}

/**
 * Loads models in turn, `repeats` times, and returns for each a session and its load times.
 * In turn, so that a slow moment of the machine hits all of them.
 */
export async function loadInTurn(models, repeats) {
  const loaded = models.map(() => ({ session: null, times: [] }));
  for (let turn = 0; turn < repeats; turn++) {
    for (const [index, bytes] of models.entries()) {
      await loaded[index].session?.release();
      const { session, milliseconds } = await load(bytes);
      loaded[index].session = session;
      loaded[index].times.push(milliseconds);
    }
  }
  return loaded;
}
