"use strict";
// Figures as SVG: a plot with two axes, and rows of marks. Values are shown where one points at a mark, or reaches it by keyboard.

const WIDTH = 360;

function drawn(name, attributes, parent) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent.append(made);
  return made;
}

function written(parent, x, y, text, attributes = {}) {
  drawn("text", { x, y, ...attributes }, parent).textContent = text;
}

/* A number in a short form, "-" where there is none. */
function short(value) {
  if (!Number.isFinite(value)) return "-";
  const size = Math.abs(value);
  for (const [unit, one] of [["B", 1e9], ["M", 1e6], ["k", 1e4]]) {
    if (size >= one) return Number((value / (unit === "k" ? 1e3 : one)).toPrecision(3)) + unit;
  }
  return String(Number(value.toPrecision(3)));
}

/* Ticks at round numbers between two values; for logarithms at 1, 2, 5 or 1 alone. */
function ticks(low, high, log) {
  const found = [];
  if (log) {
    const steps = high / low > 50 ? [1] : [1, 2, 5];
    const every = Math.max(1, Math.ceil(Math.log10(high / low) / 6));
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += every) {
      for (const step of steps) found.push(step * 10 ** power);
    }
  } else {
    const rough = (high - low) / 7 || 1;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((times) => times * unit >= rough) * unit;
    for (let value = Math.ceil(low / step); value <= high / step + 1e-9; value += 1) found.push(value * step);
  }
  return found.filter((value) => value >= low * (1 - 1e-9) - 1e-12 && value <= high * (1 + 1e-9));
}

/* A scale from values to places. On a logarithmic one, 0 stands at the low end. */
function scaled({ values, log = false, low = null, high = null }, from, to) {
  const known = values.filter((value) => Number.isFinite(value));
  const positive = log ? known.filter((value) => value > 0) : known;
  let [least, most] = [low ?? Math.min(...positive), high ?? Math.max(...positive)];
  if (!Number.isFinite(least) || !Number.isFinite(most)) [least, most] = log ? [1, 10] : [0, 1];
  const zero = log && known.some((value) => value === 0);
  if (log) [least, most] = [least / 1.35, most * 1.35];
  else if (low === null || least === most) [least, most] = [least - (most - least || 1) * 0.06, most + (most - least || 1) * 0.06];
  const inner = zero ? from + 0.12 * (to - from) : from;
  const part = (value) => (log ? Math.log(value / least) / Math.log(most / least) : (value - least) / (most - least));
  const place = (value) => (log && value <= 0 ? from + 0.03 * (to - from) : inner + part(value) * (to - inner));
  return { place, ticks: [...(zero ? [0] : []), ...ticks(least, most, log)] };
}

const CORNERS = {
  s: [[-1, -1], [1, -1], [1, 1], [-1, 1]],
  D: [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]],
  "^": [[0, -1.25], [1.2, 1], [-1.2, 1]],
  v: [[0, 1.25], [1.2, -1], [-1.2, -1]],
  P: [[-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4], [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]],
};
CORNERS.X = CORNERS.P.map(([x, y]) => [(x - y) * 0.72, (x + y) * 0.72]);
CORNERS["*"] = Array.from({ length: 10 }, (_, corner) => {
  const size = corner % 2 ? 0.6 : 1.4;
  return [size * Math.sin((corner * Math.PI) / 5), -size * Math.cos((corner * Math.PI) / 5)];
});

/* A marker in a method's look. kind: small, ring, hollow or nothing; those with a tip can be pointed at. */
function marker(parent, x, y, look, size, kind, tip) {
  const shape = { class: `look mark ${kind}` };
  if (CORNERS[look.marker]) shape.d = "M" + CORNERS[look.marker].map(([a, b]) => `${(x + a * size).toFixed(1)} ${(y + b * size).toFixed(1)}`).join("L") + "Z";
  else Object.assign(shape, { cx: x.toFixed(1), cy: y.toFixed(1), r: size * 1.1 });
  const made = drawn(shape.d ? "path" : "circle", shape, parent);
  made.style.setProperty("--look", look.colour);
  if (tip) pointable(made, tip, kind !== "small");
  return made;
}

function pointable(made, tip, reached) {
  made.setAttribute("data-tip", tip);
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", tip.replaceAll("\n", "; "));
  if (reached) made.setAttribute("tabindex", "0");
}

/* A method's marker beside its name. */
function swatch(look) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [key, value] of [["viewBox", "0 0 16 16"], ["class", "swatch"], ["aria-hidden", "true"]]) svg.setAttribute(key, value);
  marker(svg, 8, 8, look, 5.5, "", null);
  return svg;
}

/* A panel with two axes. x and y: {values, label, log, low, high}; returns marks' places and a layer to draw on. */
function plot(place, title, x, y, height = 250) {
  const [left, right, top, bottom] = [44, 8, 8, 38];
  const panel = element("div", { class: "panel" }, element("h4", {}, title));
  place.append(panel);
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "group", "aria-label": title }, panel);
  const across = scaled(x, left, WIDTH - right);
  const up = scaled(y, height - bottom, top);
  let last = -Infinity;
  for (const tick of across.ticks) {
    const at = across.place(tick);
    drawn("line", { x1: at, x2: at, y1: top, y2: height - bottom, class: "grid" }, svg);
    if (at - last < 34) continue;
    written(svg, at, height - bottom + 14, short(tick), { "text-anchor": "middle" });
    last = at;
  }
  for (const tick of up.ticks) {
    const at = up.place(tick);
    drawn("line", { x1: left, x2: WIDTH - right, y1: at, y2: at, class: "grid" }, svg);
    written(svg, left - 6, at + 4, short(tick), { "text-anchor": "end" });
  }
  drawn("path", { d: `M${left} ${top}V${height - bottom}H${WIDTH - right}`, class: "axis", fill: "none" }, svg);
  written(svg, (left + WIDTH - right) / 2, height - 6, x.label, { "text-anchor": "middle" });
  written(svg, 0, 0, y.label, { "text-anchor": "middle", transform: `translate(11 ${(top + height - bottom) / 2}) rotate(-90)` });
  return {
    svg,
    x: across.place,
    y: up.place,
    lineAcross: (value) => drawn("line", { x1: left, x2: WIDTH - right, y1: up.place(value), y2: up.place(value), class: "dash" }, svg),
    lineUp: (value) => drawn("line", { x1: across.place(value), x2: across.place(value), y1: top, y2: height - bottom, class: "dash" }, svg),
    path(points, attributes, look, stepped = false) {
      const corners = points.map(([a, b]) => [across.place(a).toFixed(1), up.place(b).toFixed(1)]);
      const d = corners.map(([a, b], number) => (number === 0 ? `M${a} ${b}` : stepped ? `H${a}V${b}` : `L${a} ${b}`)).join("");
      const made = drawn("path", { d, ...attributes }, svg);
      if (look) made.style.setProperty("--look", look.colour);
      return made;
    },
  };
}

/* Rows, each a name above its marks on a common axis. draw(svg, row, y, place) draws one. */
function rowPlot(place, title, rows, x, draw) {
  const [left, right, each, bottom] = [4, 46, 38, 34];
  const width = 1.4 * WIDTH;
  const height = rows.length * each + bottom;
  const panel = element("div", { class: "panel" }, element("h4", {}, title));
  place.append(panel);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": title }, panel);
  const across = scaled(x, left, width - right);
  for (const tick of across.ticks) {
    drawn("line", { x1: across.place(tick), x2: across.place(tick), y1: 0, y2: height - bottom, class: "grid" }, svg);
    written(svg, across.place(tick), height - bottom + 14, short(tick), { "text-anchor": "middle" });
  }
  for (const value of x.marked ?? []) {
    drawn("line", { x1: across.place(value), x2: across.place(value), y1: 0, y2: height - bottom, class: "dash" }, svg);
  }
  written(svg, (left + width - right) / 2, height - 4, x.label, { "text-anchor": "middle" });
  rows.forEach((row, number) => {
    written(svg, left, number * each + 13, row.label, { class: "name" });
    draw(svg, row, number * each + 18, across.place);
  });
}

/* What nothing cheaper beats, cheapest first, of [cost, accuracy]. */
function front(points) {
  const sorted = points.filter(([a, b]) => Number.isFinite(a) && Number.isFinite(b)).sort((a, b) => a[0] - b[0] || b[1] - a[1]);
  let best = -Infinity;
  return sorted.filter(([, accuracy]) => accuracy > best && ((best = accuracy), true));
}

/* The one tooltip: the words of whatever is pointed at or reached. */
function showTips() {
  const tip = document.getElementById("tip");
  const tipped = (node) => node.closest?.("[data-tip]") ?? null;
  const show = (target) => {
    tip.hidden = !target;
    if (!target) return;
    tip.textContent = target.getAttribute("data-tip");
    const box = target.getBoundingClientRect();
    const [wide, high] = [tip.offsetWidth, tip.offsetHeight];
    tip.style.left = `${Math.max(6, Math.min(innerWidth - wide - 6, box.left + box.width / 2 - wide / 2))}px`;
    tip.style.top = `${box.top - high - 8 < 4 ? box.bottom + 8 : box.top - high - 8}px`;
  };
  document.addEventListener("pointerover", (event) => show(tipped(event.target)));
  document.addEventListener("focusin", (event) => show(tipped(event.target)));
  document.addEventListener("focusout", () => (tip.hidden = true));
  // what is reached by keyboard may scroll into view; its tip goes along
  document.addEventListener("scroll", () => show(tipped(document.activeElement)), { passive: true, capture: true });
  document.addEventListener("keydown", (event) => event.key === "Escape" && (tip.hidden = true));
}
