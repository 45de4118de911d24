// Writes results into the page. Holds no state and knows no runtime.

const DIGITS = 10;
const element = (id) => document.getElementById(id);
const number = (value, digits) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const percent = (value) => `${number(100 * value, 1)}\u00a0%`;

/** Fills a card; `which` is "float" or "converted", sizes are in bytes, the load time in ms. */
export function showModel(which, { bytes, originalBytes, milliseconds, right, images }) {
  element(`${which}-size`).textContent = `${number(bytes / 1000, 1)} kB`;
  element(`${which}-bar`).style.width = `${(100 * bytes) / originalBytes}%`;
  element(`${which}-load`).textContent = `${number(milliseconds, 1)} ms`;
  element(`${which}-right`).textContent = `${right} of ${images}`;
  if (bytes !== originalBytes) {
    element("ratio").textContent = `${number(originalBytes / bytes, 1)}× smaller`;
  }
}

/** Names the bit width wherever the page speaks of it. */
export function showBits(bits) {
  for (const place of document.querySelectorAll("[data-bits]")) place.textContent = String(bits);
}

/** Adds the ten rows of the table of probabilities. */
export function makeRows() {
  for (let digit = 0; digit < DIGITS; digit++) {
    const row = element("probabilities").insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = String(digit);
    row.append(head, probabilityCell("float"), probabilityCell("converted"));
  }
}

function probabilityCell(which) {
  const cell = document.createElement("td");
  const bar = document.createElement("span");
  bar.className = `bar ${which}`;
  bar.setAttribute("aria-hidden", "true");
  const text = document.createElement("span");
  text.className = "percent";
  cell.append(bar, text);
  return cell;
}

/** Shows both models' probabilities of the ten digits, and says in words what they make of it. */
export function showProbabilities(floats, converted, bits) {
  [...element("probabilities").rows].forEach((row, digit) => {
    [floats, converted].forEach((values, column) => {
      const cell = row.cells[column + 1];
      cell.classList.toggle("most", digit === best(values));
      cell.firstChild.style.setProperty("--share", String(values[digit]));
      cell.lastChild.textContent = percent(values[digit]);
    });
  });
  const [one, other] = [best(floats), best(converted)];
  const away = Math.max(...Array.from(floats, (value, digit) => Math.abs(value - converted[digit])));
  element("verdict").textContent =
    `Float says ${one} (${percent(floats[one])}), ` +
    `${bits}-bit says ${other} (${percent(converted[other])}). ` +
    `Largest difference of a probability: ${away.toPrecision(2)}.`;
}

/** Returns the index of the largest value, the first one among equals. */
export function best(values) {
  return Array.from(values).reduce((found, value, at) => (value > values[found] ? at : found), 0);
}

/** Says what the page is doing; empty when it is done. */
export function showStatus(text) {
  element("status").textContent = text;
  document.body.toggleAttribute("data-busy", text !== "");
}

export function showError(error) {
  element("error").textContent = `This did not work: ${error.message ?? error}`;
  element("error").hidden = false;
}
