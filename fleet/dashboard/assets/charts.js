// What charts of one page say at one moment: pointed at. Without this file they are drawings.
// A chart tells by its own path: places along it are thousandths, heights are pixels, and data-x0 … data-y1 are the ends of its axes.
"use strict";

const UNITS = 1000;
let clock = null;

function at(time) {
  clock ??= new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" });
  return clock.format(new Date(time * 1000));
}

function points(path) {
  return (path.getAttribute("d").match(/-?[\d.]+(e-?\d+)?,-?[\d.]+(e-?\d+)?/g) || []).map((pair) => pair.split(",").map(Number));
}

function brief(value) {
  const [limit, letter] = [[1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([least]) => Math.abs(value) >= least) || [1, ""];
  return `${Number((value / limit).toPrecision(3))}${letter}`;
}

class Chart {
  constructor(svg) {
    this.svg = svg;
    this.output = svg.closest("figure")?.querySelector("output");
    this.said = this.output?.textContent;
    const end = (name) => Number(svg.dataset[name]);
    this.time = (x) => end("x0") + (x / UNITS) * (end("x1") - end("x0"));
    this.place = (time) => ((time - end("x0")) / (end("x1") - end("x0"))) * UNITS;
    const inner = svg.querySelector("svg");
    const height = Number(inner.getAttribute("height"));
    this.value = (y) => end("y0") + (1 - y / height) * (end("y1") - end("y0"));
    this.bands = [...svg.querySelectorAll("path.band")].map((path) => ({ name: path.dataset.name, isStep: path.dataset.step === "yes", points: points(path) }));
    this.line = document.createElementNS(svg.namespaceURI, "line");
    this.line.setAttribute("class", "cross");
    this.line.setAttribute("y1", "0");
    this.line.setAttribute("y2", "100%");
    svg.append(this.line);
  }

  show(time) {
    const x = this.place(time);
    this.line.setAttribute("x1", `${x / 10}%`);
    this.line.setAttribute("x2", `${x / 10}%`);
    this.line.classList.add("on");
    if (!this.output) return;
    const told = this.bands.map((band) => this.tell(band, x)).filter(Boolean);
    this.output.textContent = `${at(time)} UTC · ${told.join(", ") || "nothing was told"}`;
  }

  tell(band, x) {
    let near = [];
    if (band.isStep) {
      const before = band.points.filter((point) => point[0] <= x);
      near = before.length ? [before[before.length - 1][1]] : [];
    } else {
      const least = Math.min(...band.points.map((point) => Math.abs(point[0] - x)));
      if (least < 8) near = band.points.filter((point) => Math.abs(Math.abs(point[0] - x) - least) < 1e-6).map((point) => point[1]);
    }
    if (!near.length) return null;
    const [low, high] = [this.value(Math.max(...near)), this.value(Math.min(...near))];
    const unit = this.svg.dataset.unit ? ` ${this.svg.dataset.unit}` : "";
    return brief(low) === brief(high) ? `${band.name} ${brief(high)}${unit}` : `${band.name} ${brief(low)} to ${brief(high)}${unit}`;
  }

  rest() {
    this.line.classList.remove("on");
    if (this.output) this.output.textContent = this.said;
  }
}

const known = new WeakMap();

function charts() {
  return [...document.querySelectorAll("svg[data-chart]")].map((svg) => {
    if (!known.has(svg)) known.set(svg, new Chart(svg));
    return known.get(svg);
  });
}

document.addEventListener("pointermove", (event) => {
  const drawn = charts();
  const svg = event.target.closest?.("svg[data-chart]");
  if (!svg) { for (const chart of drawn) chart.rest(); return; }
  const box = svg.getBoundingClientRect();
  const time = known.get(svg).time(((event.clientX - box.left) / box.width) * UNITS);
  for (const chart of drawn) chart.show(time);
});
