// Draws each figure over its still picture once it comes into view; switches curves on and off in
// all of them; sorts tables. Without scripts there are the pictures and the tables.
"use strict";

const EDGE = 66; // pixels that a figure takes beside its panels: padding and an axis

const embedded = (name) => JSON.parse(document.getElementById(name).textContent);
const CURVES = embedded("curves"); // of each curve's name: its model, metric, strategy, ...
const DARK = embedded("dark"); // what colours become on a dark page
const MOST_ERRORS = embedded("most-errors");

const dark = matchMedia("(prefers-color-scheme: dark)");
const controls = document.getElementById("controls");

// ---- which data are shown

function unpacked({length, columns}) {
  const rows = Array.from({length}, () => ({}));
  for (const [name, {values, at}] of Object.entries(columns)) {
    rows.forEach((row, index) => {
      const place = at ? at[index] : index;
      if (place >= 0) row[name] = values[place];
    });
  }
  return rows;
}

// What is switched off: a set of values for each dimension.
function switchedOff() {
  const off = {};
  for (const box of controls?.querySelectorAll("input:not(:checked)") ?? []) {
    (off[box.name] ??= new Set()).add(box.value);
  }
  return off;
}

const isShown = (facts, off) => Object.entries(off).every(([name, values]) => !values.has(facts[name]));

// ---- what a specification becomes in this page

const COLOURED = /color$|^(background|stroke|fill|range|value)$/i;

function darkened(part, key = "") {
  if (typeof part === "string") return COLOURED.test(key) ? DARK[part] ?? part : part;
  if (Array.isArray(part)) return part.map((item) => darkened(item, key));
  if (part === null || typeof part !== "object") return part;
  return Object.fromEntries(
    Object.entries(part).map(([name, item]) => [name, name === "data" ? item : darkened(item, name)]),
  );
}

const LINES = new Set(["hue", "mark", "model", "line"]); // what legends tell apart

// Legends name only what is shown; colours and shapes are the same in the whole study.
function shortenLegends(part, rows) {
  if (part === null || typeof part !== "object") return;
  if (part.legend && LINES.has(part.field)) {
    const there = new Set(rows.map((row) => row[part.field]));
    part.legend.values = (part.legend.values ?? part.scale.domain).filter((name) => there.has(name));
  }
  for (const [name, item] of Object.entries(part)) if (name !== "data") shortenLegends(item, rows);
}

function prepare(spec, rows, room, panel) {
  // The page's own heading and caption say it, and these lines would not wrap.
  delete spec.title;
  if (dark.matches) spec = darkened(spec);
  spec.background = "transparent";
  spec.config.background = "transparent";
  shortenLegends(spec, rows);
  spec.data = {values: rows};
  for (const param of spec.params ?? []) {
    const curves = new Set(rows.filter((row) => row.kind === "point").map((row) => row.curve));
    if (param.name === "errors_shown") param.value = curves.size <= MOST_ERRORS;
  }
  if (room < 480) Object.assign(spec.config.legend, {columns: 1, labelLimit: room - 60, layout: {top: {direction: "vertical"}}});
  if (!panel) {
    spec.width = "container";
    spec.autosize = {type: "fit-x", contains: "padding"};
    return spec;
  }
  if (spec.concat) {
    // A view that is made for one panel goes with that panel's data.
    const there = new Set(rows.map((row) => row.panel));
    const panelOf = (view) => view.transform?.[0]?.filter?.equal;
    spec.concat = spec.concat.filter((view) => panelOf(view) === undefined || there.has(panelOf(view)));
  }
  const most = Math.max(1, Math.floor((room - EDGE) / panel));
  spec.columns = Math.min(spec.columns, most);
  for (const view of spec.concat ?? [spec.spec]) {
    const square = view.width === view.height;
    view.width = Math.max(120, most === 1 ? room - 90 : Math.min(view.width, room - 90));
    if (square) view.height = view.width = Math.min(view.width, 330);
  }
  return spec;
}

// ---- figures

class Figure {
  constructor(card) {
    this.card = card;
    this.picture = card.querySelector("img");
    this.chart = card.querySelector(".chart");
    this.nothing = card.querySelector(".nothing");
    this.panel = Number(card.dataset.panel);
    this.facts = JSON.parse(card.dataset.facts);
    this.near = false; // to what is seen of the page
    this.stale = true;
    this.room = 0;
  }

  get spec() {
    return embedded(this.card.dataset.spec);
  }

  async draw() {
    if (!this.near || !this.stale) return;
    this.stale = false;
    this.rows ??= unpacked(embedded(`${this.card.dataset.spec}-data`));
    this.room = this.card.clientWidth;
    const off = switchedOff();
    const rows = this.rows.filter((row) => isShown(CURVES[row.curve] ?? row, off));
    const lines = (row) => row.kind === "dense" || row.kind === "chance"; // to compare curves with
    const empty = !isShown(this.facts, off) || rows.every(lines);
    this.drawn?.finalize();
    this.picture.hidden = true;
    this.card.classList.add("drawn");
    this.chart.hidden = empty;
    this.nothing.hidden = !empty;
    this.card.rows = empty ? [] : rows; // what is seen, for who looks in from a console
    if (empty) return;
    try {
      this.drawn = await vegaEmbed(this.chart, prepare(this.spec, rows, this.room - 12, this.panel), {
        renderer: "svg",
        actions: {export: true, source: false, compiled: false, editor: false},
        tooltip: {theme: dark.matches ? "dark" : "light"},
      });
      this.card.view = this.drawn.view;
    } catch (error) {
      this.picture.hidden = false;
      this.card.classList.remove("drawn");
      throw error;
    }
  }
}

const figures = Array.from(document.querySelectorAll("[data-spec]"), (card) => new Figure(card));

let drawing = false;

async function drawAll() {
  if (drawing) return;
  drawing = true;
  try {
    let next;
    while ((next = figures.find((figure) => figure.near && figure.stale))) {
      await next.draw();
      await new Promise((done) => setTimeout(done)); // so that the page can be scrolled meanwhile
    }
  } finally {
    drawing = false;
  }
}

function drawAgain(some) {
  for (const figure of some) figure.stale = true;
  drawAll();
}

const seen = new IntersectionObserver((changes) => {
  for (const {target, isIntersecting} of changes) {
    figures.find((figure) => figure.card === target).near = isIntersecting;
  }
  drawAll();
}, {rootMargin: "800px"});
for (const figure of figures) seen.observe(figure.card);

let waiting = null;
addEventListener("resize", () => {
  clearTimeout(waiting);
  // A single panel follows its card by itself; several need a new layout.
  waiting = setTimeout(
    () => drawAgain(figures.filter((figure) => figure.room && figure.room !== figure.card.clientWidth
      && (figure.panel || (figure.room < 492) !== (figure.card.clientWidth < 492)))),
    200,
  );
});
dark.addEventListener("change", () => drawAgain(figures));

// ---- controls

function sayShown() {
  const off = switchedOff();
  const all = Object.values(CURVES);
  const shown = all.filter((facts) => isShown(facts, off)).length;
  controls.querySelector("output").textContent = `${shown} of ${all.length} curves`;
}

if (controls) {
  controls.hidden = false;
  sayShown();
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("change", () => {
    sayShown();
    drawAgain(figures);
  });
  controls.addEventListener("reset", () => setTimeout(() => {
    sayShown();
    drawAgain(figures);
  }));
}

// ---- tables

const SIZES = {k: 1e3, M: 1e6, G: 1e9, B: 1e9, T: 1e12};

// The number that a cell is sorted by: `3.84`, `62.0 ± 3.5`, `23.3% (7 layers)`, `>50.0 [41.7, ...]`,
// what came after an arrow; null for texts. Lists of layers such as `3, 11-19` are texts.
function numberOf(text) {
  const last = text.slice(text.lastIndexOf("→") + 1).trim();
  const found = /^>?([-−]?[\d,]*\.?\d+)([kMGBT]?)%?(\s*±.*|\s*[([].*|\s+\D*)?$/.exec(last);
  if (!found) return null;
  return Number(found[1].replaceAll(",", "").replace("−", "-")) * (SIZES[found[2]] ?? 1);
}

function sort(table, index, down) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => {
    const text = row.cells[index].textContent.trim();
    return {row, text, number: numberOf(text)};
  });
  // Of numbers, unless there is something else with digits in it.
  const numbers = rows.every(({text, number}) => number !== null || !/\d/.test(text));
  const order = (a, b) =>
    numbers ? a.number - b.number : a.text.localeCompare(b.text, "en", {numeric: true});
  const lacking = numbers ? ({number}) => number === null : ({text}) => !text;
  rows.sort((a, b) => {
    if (lacking(a) || lacking(b)) return lacking(a) - lacking(b); // always at the end
    return down ? order(b, a) : order(a, b);
  });
  body.append(...rows.map(({row}) => row));
}

for (const table of document.querySelectorAll("table")) {
  const heads = Array.from(table.tHead.rows[table.tHead.rows.length - 1].cells);
  heads.forEach((head, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(table, index, down);
    });
  });
}
