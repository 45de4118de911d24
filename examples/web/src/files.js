// The names of what the build writes and the page loads, relative to the page.

/** The bit widths that the page offers, and the one it starts with. */
export const BITS = [8, 6, 5, 4, 3, 2];
export const FIRST_BITS = 6;

export const FLOAT_FILE = "models/digits.onnx";
export const SAMPLES_FILE = "models/digits_test.npz";

export function convertedFile(bits) {
  return `models/digits-${bits}bit.onnx`;
}
