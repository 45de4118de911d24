// Builds dist/: converts the model, bundles the scripts, copies what is served as it is.
//
// Needs an onnxq in the Python that PYTHON names, else in the clone's .venv, else in python3.
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

import { BITS, FLOAT_FILE, SAMPLES_FILE, convertedFile } from "./src/files.js";

const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = join(HERE, "..", "..");
const DIST = join(HERE, "dist");
const RUNTIME_WASM = "node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm";

function python() {
  if (process.env.PYTHON) return process.env.PYTHON;
  const folder = process.platform === "win32" ? "Scripts" : "bin";
  const own = join(ROOT, ".venv", folder, "python");
  return existsSync(own) || existsSync(`${own}.exe`) ? own : "python3";
}

function convert(bits) {
  const source = join(ROOT, "models", "digits.onnx");
  const output = join(DIST, convertedFile(bits));
  const options = ["--bits", String(bits), "--force", "-q"];
  const done = spawnSync(python(), ["-m", "onnxq", "convert", source, output, ...options], {
    cwd: ROOT,
    stdio: "inherit",
  });
  if (done.error) throw done.error;
  if (done.status !== 0) throw new Error(`onnxq convert ended with exit code ${done.status}`);
}

rmSync(DIST, { recursive: true, force: true });
mkdirSync(join(DIST, "models"), { recursive: true });
copyFileSync(join(ROOT, "models", "digits.onnx"), join(DIST, FLOAT_FILE));
copyFileSync(join(ROOT, "models", "digits_test.npz"), join(DIST, SAMPLES_FILE));
for (const name of ["index.html", "style.css", "icon.svg"]) {
  copyFileSync(join(HERE, name), join(DIST, name));
}
copyFileSync(join(HERE, RUNTIME_WASM), join(DIST, "ort-wasm-simd-threaded.wasm"));
for (const bits of BITS) convert(bits);

await build({
  absWorkingDir: HERE,
  entryPoints: ["src/main.js", "src/runtime.js"],
  outdir: DIST,
  bundle: true,
  splitting: true, // runtime.js stays a module of its own, which the tests import
  format: "esm",
  target: "es2022",
  minify: true,
  legalComments: "linked",
  logLevel: "info",
});
