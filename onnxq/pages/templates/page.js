"use strict";
// Draws the charts and sorts the tables. Texts of reports reach the page as text nodes only, and
// plotly, which reads a little markup, gets them escaped (`quoted`).
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  for (const entry of data.entries) {
    for (const row of entry.tensors) {
      for (const place of [0, 6, 7]) row[place] = data.texts[row[place]];
    }
  }
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross"];
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const MOST_BARS = 40;
  const BAR_HEIGHT = 26;
  const LABELLED = 2;
  const hidden = new Set();
  const byId = (id) => document.getElementById(id);

  const quoted = (text) =>
    String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const colour = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const seriesColour = (index) => colour(`--s${(index % 6) + 1}`);
  const isNarrow = () => document.documentElement.clientWidth < 640;
  const isTouch = () => isNarrow() || matchMedia("(pointer: coarse)").matches;

  function shortened(text, length) {
    if (text.length <= length) return text;
    const tail = Math.ceil((length - 1) / 2);
    return `${text.slice(0, length - 1 - tail)}\u2026${text.slice(-tail)}`;
  }

  // How much of a shared end to leave out: whole words, since "…onv1" tells less than "conv1".
  function wordsCut(shared) {
    const words = shared.search(/[^./_: ]*$/);
    return words > 1 ? words : lettersCut(shared.length);
  }
  const lettersCut = (count) => (count > 4 ? count : 0);
  const reversed = (text) => [...text].reverse().join("");

  // What many names share at both ends goes first, since it tells none of them from another.
  function told(names, room) {
    if (names.length < 2 || names.every((name) => name.length <= room)) {
      return names.map((name) => shortened(name, room));
    }
    const shortest = Math.min(...names.map((name) => name.length));
    let head = 0, tail = 0;
    while (head < shortest && names.every((name) => name[head] === names[0][head])) head += 1;
    while (tail < shortest - head && names.every((name) => name.at(-1 - tail) === names[0].at(-1 - tail))) tail += 1;
    const longest = Math.max(...names.map((name) => name.length));
    const spare = Math.max(0, room - 2 - (longest - head - tail));
    let from = wordsCut(names[0].slice(0, Math.max(0, head - Math.ceil(spare / 2))));
    const kept = Math.max(0, Math.min(tail, spare - (head - from)));
    let cut = wordsCut(reversed(names[0].slice(names[0].length - tail + kept)));
    if (longest - from - cut + 2 > room) {  // whole words are too little: to the letter
      from = lettersCut(head - Math.ceil(spare / 2));
      cut = lettersCut(tail - Math.max(0, spare - (head - from)));
    }
    return names.map((name) => {
      const middle = name.slice(from, name.length - cut);
      return shortened((from ? "\u2026" : "") + middle + (cut ? "\u2026" : ""), room);
    });
  }

  function axis(title, extra) {
    return {
      title: { text: quoted(title), standoff: 12 },
      gridcolor: colour("--grid"),
      linecolor: colour("--soft"),
      zeroline: false,
      automargin: true,
      ...extra,
    };
  }

  function draw(place, traces, layout, buttons) {
    const whole = {
      font: { color: colour("--ink"), size: 13, family: getComputedStyle(document.body).fontFamily },
      paper_bgcolor: colour("--back"),
      plot_bgcolor: colour("--back"),
      showlegend: false,
      dragmode: buttons && !isTouch() ? "zoom" : false,
      hovermode: "closest",
      hoverlabel: {
        bgcolor: colour("--raised"),
        bordercolor: colour("--soft"),
        font: { color: colour("--ink"), size: 13 },
        align: "left",
        namelength: -1,
      },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--ink") },
      ...layout,
    };
    Plotly.react(place, traces, whole, {
      responsive: true,
      displaylogo: false,
      displayModeBar: buttons && !isTouch() ? "hover" : false,
      modeBarButtons: [buttons ?? []],
    });
  }

  function element(name, attributes, ...children) {
    const isDrawing = ["svg", "path", "circle", "line", "rect"].includes(name);
    const made = isDrawing
      ? document.createElementNS("http://www.w3.org/2000/svg", name)
      : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  // Legends -------------------------------------------------------------------------------------

  function marker(index, hue) {
    const shapes = [
      ["circle", { cx: 16, cy: 8, r: 5 }],
      ["rect", { x: 11.5, y: 3.5, width: 9, height: 9 }],
      ["path", { d: "M16 2L22 8L16 14L10 8Z" }],
      ["path", { d: "M16 2L22 13L10 13Z" }],
      ["path", { d: "M16 14L22 3L10 3Z" }],
      ["path", { d: "M13.5 2h5v3.5h3.5v5h-3.5v3.5h-5v-3.5h-3.5v-5h3.5z" }],
    ];
    const [name, attributes] = shapes[index % shapes.length];
    return element(name, { ...attributes, fill: hue });
  }

  function line(hue, dash, width) {
    const dashes = { solid: "", dash: "8 4", dot: "2 3", dashdot: "8 3 2 3" };
    return element("line", {
      x1: 0, y1: 8, x2: 32, y2: 8, stroke: hue, "stroke-width": width,
      "stroke-dasharray": dashes[dash],
    });
  }

  const swatch = (...shapes) =>
    element("svg", { width: 32, height: 16, "aria-hidden": "true" }, ...shapes);

  function curvesLegend(chart) {
    const entries = chart.series.map((series, index) => {
      const box = element("input", { type: "checkbox" });
      box.checked = !hidden.has(series.name);
      box.addEventListener("change", () => {
        if (box.checked) hidden.delete(series.name);
        else hidden.add(series.name);
        drawCurves();
      });
      const hue = seriesColour(index);
      const shapes = [marker(index, hue)];
      if (series.line) shapes.unshift(line(hue, DASHES[index % DASHES.length], 2));
      return element("label", {}, box, swatch(...shapes), series.name);
    });
    const models = [...new Set(chart.series.map((series) => series.model))];
    for (const float of chart.floats) {
      entries.push(element("span", {}, swatch(line(floatColour(chart, float, models), "dot", 2)), float.name));
    }
    for (const float of bandsOf(chart)) {
      const band = element("rect", { x: 0, y: 1, width: 32, height: 14, fill: colour("--ink"), opacity: 0.12 });
      entries.push(element("span", {}, swatch(band), `${float.name}, 95 %`));
    }
    if (frontTraces(chart).length) {
      entries.push(element("span", {}, swatch(line(colour("--front"), "solid", 8)), "Pareto front (filled)"));
    }
    const focused = [...byId("curves-legend").querySelectorAll("input")].indexOf(document.activeElement);
    byId("curves-legend").replaceChildren(...entries);
    if (focused >= 0) byId("curves-legend").querySelectorAll("input")[focused].focus();
  }

  // Bands of several models would cover each other.
  const bandsOf = (chart) =>
    new Set(chart.series.map((series) => series.model)).size > 1
      ? [] : chart.floats.filter((float) => float.low !== null);

  function floatColour(chart, float, models) {
    if (models.length <= 1) return colour("--ink");
    return seriesColour(Math.max(0, chart.series.findIndex((series) => series.model === float.model)));
  }

  // Quality against size ------------------------------------------------------------------------

  function frontTraces(chart) {
    const models = [...new Set(chart.series.map((series) => series.model))];
    return models.flatMap((model) => {
      const dots = chart.series
        .filter((series) => series.model === model && !hidden.has(series.name))
        .flatMap((series) => series.dots.filter((dot) => dot[5]))
        .sort((a, b) => a[1] - b[1] || a[2] - b[2]);
      if (dots.length < 2) return [];  // one point is no front
      return [{
        x: dots.map((dot) => dot[1]), y: dots.map((dot) => dot[2]), mode: "lines",
        line: { color: colour("--front"), width: 9 }, hoverinfo: "skip",
      }];
    });
  }

  function seriesTrace(series, index, isLabelled) {
    const hue = seriesColour(index);
    const dots = series.dots;
    const hasBars = dots.some((dot) => dot[3] !== null && dot[4] !== null);
    const bar = (dot, end) => (dot[end] === null ? 0 : Math.abs(dot[end] - dot[2]));
    return {
      x: dots.map((dot) => dot[1]),
      y: dots.map((dot) => dot[2]),
      error_y: {
        visible: hasBars, type: "data", symmetric: false, thickness: 1.2, width: 4, color: hue,
        array: dots.map((dot) => bar(dot, 4)), arrayminus: dots.map((dot) => bar(dot, 3)),
      },
      mode: (series.line ? "lines+" : "") + "markers" + (isLabelled ? "+text" : ""),
      visible: !hidden.has(series.name),
      text: dots.map((dot) => quoted(data.entries[dot[0]].label.match(/\d+(?= bits?$)/)?.[0] ?? "")),
      textposition: dots.map((dot) => (dot[6] ? "top left" : "bottom right")),
      textfont: { color: hue },
      line: { color: hue, width: 2, dash: DASHES[index % DASHES.length] },
      marker: {
        symbol: SYMBOLS[index % SYMBOLS.length], size: 10,
        color: dots.map((dot) => (dot[5] ? hue : colour("--back"))),
        line: { color: hue, width: 2 },
      },
      customdata: dots.map((dot) => dot[0]),
      hoverinfo: "text",
      hovertext: dots.map((dot) => hover(data.entries[dot[0]].hover)),
    };
  }

  const hover = (lines) =>
    lines.map((text) => quoted(shortened(text, isNarrow() ? 38 : 90))).join("<br>");

  function drawCurves() {
    const chart = data.charts[byId("measure").value][byId("size").value];
    const isLabelled = chart.series.length <= LABELLED;
    const models = [...new Set(chart.series.map((series) => series.model))];
    const shapes = chart.floats.map((float) => ({
      type: "line", xref: "paper", x0: 0, x1: 1, y0: float.value, y1: float.value,
      line: { color: floatColour(chart, float, models), width: 1.5, dash: "dot" }, layer: "below",
    }));
    const bands = bandsOf(chart).map((float) => ({
      type: "rect", xref: "paper", x0: 0, x1: 1, y0: float.low, y1: float.high, layer: "below",
      line: { width: 0 }, fillcolor: colour("--ink"), opacity: 0.07,
    }));
    // An invisible point keeps each float line inside the picture.
    const anchors = chart.floats.map((float) => ({
      x: chart.series.flatMap((series) => series.dots).slice(0, 1).map((dot) => dot[1]),
      y: [float.value], mode: "markers", marker: { opacity: 0 }, hoverinfo: "skip",
    }));
    const traces = chart.series.map((series, index) => seriesTrace(series, index, isLabelled));
    draw(byId("curves"), [...frontTraces(chart), ...anchors, ...traces], {
      height: isNarrow() ? 340 : 440,
      margin: { l: 10, r: 12, t: isNarrow() ? 30 : isTouch() ? 16 : 40, b: 10 },  // of the toolbar
      xaxis: axis(chart.x, { showline: true, nticks: isNarrow() ? 5 : 10 }),
      yaxis: axis(isNarrow() ? "" : chart.y, {}),
      title: isNarrow() ? { text: quoted(chart.y), font: { size: 13 }, x: 0, xanchor: "left", y: 0.99, yanchor: "top" } : undefined,
      shapes: [...bands, ...shapes],
    }, ["toImage", "zoom2d", "pan2d", "resetScale2d"]);
    curvesLegend(chart);
    byId("undrawn").replaceChildren(
      ...chart.undrawn.map((text) => element("li", {}, `Not drawn: ${text}`)));
  }

  // Bars ----------------------------------------------------------------------------------------

  function drawBars(place, bars, traces, title) {
    const room = isNarrow() ? 16 : 36;
    draw(place, traces, {
      height: 88 + BAR_HEIGHT * bars.length,
      margin: { l: 10, r: 12, t: 6, b: 10 },
      barmode: "stack",
      bargap: 0.25,
      xaxis: axis(title, { rangemode: "tozero", fixedrange: true, nticks: isNarrow() ? 5 : 10 }),
      yaxis: axis("", {
        autorange: "reversed", fixedrange: true, showgrid: false, ticks: "",
        tickvals: bars.map((_, index) => index),
        ticktext: told(bars, room).map((name) => `${quoted(name)} `),
      }),
    });
  }

  const UNITS = [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "bytes"]];
  const unitOf = (values) => {
    const largest = Math.max(0, ...values);
    return UNITS.find(([scale]) => largest >= scale) ?? UNITS[3];
  };
  const grouped = (value) => value.toLocaleString("en", { maximumFractionDigits: 2 });

  function drawLedger() {
    const entries = data.entries.filter((entry) => entry.ledger !== null);
    const totals = entries.map((entry) => entry.ledger.reduce((a, b) => a + b, 0));
    const [scale, unit] = unitOf(totals);
    const traces = data.parts.map((part, index) => ({
      type: "bar", orientation: "h",
      y: entries.map((_, position) => position),
      x: entries.map((entry) => entry.ledger[index] / scale),
      marker: { color: colour(`--p${index + 1}`), line: { color: colour("--back"), width: 1 } },
      hoverinfo: "text", textposition: "none",
      hovertext: entries.map((entry, position) => hover([
        entry.label,
        `${part}: ${grouped(entry.ledger[index])} bytes`,
        `${(100 * entry.ledger[index] / Math.max(1, totals[position])).toFixed(1)} % of the file`,
      ])),
    }));
    drawBars(byId("ledger"), entries.map((entry) => entry.label), traces, `File size (${unit})`);
    byId("ledger-legend").replaceChildren(...data.parts.map((part, index) => element("span", {},
      swatch(element("rect", { x: 8, y: 1, width: 14, height: 14, fill: colour(`--p${index + 1}`) })),
      part)));
  }

  const FIGURES = {
    stored: { title: "Bytes stored", of: (row) => row[4] },
    snr: { title: "SNR (dB)", of: (row) => row[5] },
    bits: { title: "Bits per index", of: (row) => row[1] },
    times: { title: "Times smaller", of: (row) => (row[4] ? row[3] / row[4] : null) },
  };

  function drawTensors() {
    const entry = data.entries[byId("entry").value];
    const figure = FIGURES[byId("figure").value];
    const isLeastFirst = byId("figure").value === "snr";
    const known = entry.tensors.filter((row) => figure.of(row) !== null);
    known.sort((a, b) => (figure.of(b) - figure.of(a)) * (isLeastFirst ? -1 : 1));
    const rows = known.slice(0, MOST_BARS);
    const isBytes = byId("figure").value === "stored";
    const [scale, unit] = isBytes ? unitOf(rows.map(figure.of)) : [1, ""];
    drawBars(byId("tensors"), rows.map((row) => row[0]), [{
      type: "bar", orientation: "h",
      y: rows.map((_, index) => index),
      x: rows.map((row) => figure.of(row) / scale),
      marker: { color: colour("--p1") },
      hoverinfo: "text", textposition: "none",
      hovertext: rows.map((row) => hover([
        row[0], `${row[6]}, ${grouped(row[2])} elements, ${row[1]} bits`,
        `${grouped(row[3])} bytes before, ${grouped(row[4])} stored`,
        row[5] === null ? row[7] : `SNR ${grouped(row[5])} dB, ${row[7]}`,
      ])),
    }], isBytes ? `Stored (${unit})` : figure.title);
    const omitted = entry.tensors.length - rows.length;
    const why = known.length < entry.tensors.length ? "exact or shared ones are left out; " : "";
    byId("tensors-remark").textContent = omitted
      ? `${rows.length} of ${entry.tensors.length} tensors are drawn; ${why}all are in the table.` : "";
  }

  function fillTensors() {
    const entry = data.entries[byId("entry").value];
    byId("tensors-caption").textContent = `Tensors of ${entry.label} (${entry.tensors.length})`;
    const cell = (value, kind) => {
      const isNumber = kind === "number";
      const text = value === null ? "-" : isNumber ? grouped(value) : value;
      const made = element(kind === "head" ? "th" : "td", { class: isNumber ? "number" : "text" }, text);
      if (kind === "head") made.scope = "row";
      if (value !== null) made.dataset.sort = value;
      return made;
    };
    byId("tensors-body").replaceChildren(...entry.tensors.map((row) => element("tr", {},
      cell(row[0], "head"), cell(row[6], "text"), cell(row[1], "number"), cell(row[2], "number"),
      cell(row[3], "number"), cell(row[4], "number"), cell(row[5], "number"), cell(row[7], "text"))));
    for (const head of document.querySelectorAll("table.tensors th[aria-sort]")) head.removeAttribute("aria-sort");
  }

  function drawLayers(place, layers) {
    const rows = layers.filter((row) => row[1] !== null).slice(0, MOST_BARS);
    drawBars(place, rows.map((row) => row[0]), [{
      type: "bar", orientation: "h",
      y: rows.map((_, index) => index),
      x: rows.map((row) => row[1]),
      marker: { color: colour("--p2") },
      hoverinfo: "text", textposition: "none",
      hovertext: rows.map((row) => hover([
        row[0], `Output SNR ${grouped(row[1])} dB`, `${row[3] ?? "?"} bits, ${grouped(row[4])} bytes`,
      ])),
    }], "Output SNR (dB)");
  }

  function drawAll() {
    if (byId("curves")) drawCurves();
    if (byId("ledger")) drawLedger();
    if (byId("tensors")) drawTensors();
    document.querySelectorAll(".layers-chart").forEach((place, index) => drawLayers(place, data.layers[index]));
  }

  // Tables --------------------------------------------------------------------------------------

  function compare(left, right) {
    const a = left.dataset.sort, b = right.dataset.sort;
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    const isNumber = left.classList.contains("number");
    return isNumber ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
  }

  function sortBy(table, head) {
    const isUp = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", isUp ? "ascending" : "descending");
    const column = head.cellIndex, body = table.tBodies[0];
    const isKnown = (row) => row.cells[column].dataset.sort !== undefined;
    const rows = [...body.rows];
    const known = rows.filter(isKnown);
    known.sort((a, b) => compare(a.cells[column], b.cells[column]) * (isUp ? 1 : -1));
    body.append(...known, ...rows.filter((row) => !isKnown(row)));
  }

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    for (const button of table.querySelectorAll("thead button")) {
      const head = button.closest("th");
      head.addEventListener("click", () => sortBy(table, head));
    }
  }

  // Start ---------------------------------------------------------------------------------------

  async function loadLibrary() {
    const packed = Uint8Array.from(atob(byId("library").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  async function start() {
    byId("entry")?.addEventListener("change", fillTensors);
    if (byId("entry")) fillTensors();
    await loadLibrary();
    drawAll();
    for (const id of ["measure", "size"]) byId(id)?.addEventListener("change", drawCurves);
    for (const id of ["entry", "figure"]) byId(id)?.addEventListener("change", drawTensors);
    byId("curves")?.on("plotly_click", (event) => {
      const entry = event.points.find((point) => point.customdata !== undefined)?.customdata;
      const option = byId("entry")?.querySelector(`option[value="${Number(entry)}"]`);
      if (!option) return;
      option.selected = true;
      byId("entry").dispatchEvent(new Event("change"));
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
    matchMedia("(max-width: 639px)").addEventListener("change", drawAll);
    document.documentElement.dataset.state = "drawn";
  }

  start().catch((problem) => {
    byId("problem").textContent = `The charts cannot be drawn in this browser (${problem.message}); the tables hold every figure.`;
    byId("problem").hidden = false;
    document.documentElement.dataset.state = "failed";
  });
})();
