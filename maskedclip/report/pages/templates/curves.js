"use strict";
const data = JSON.parse(document.getElementById("curves").textContent);
const COLOURS = 8, DASHES = ["", "7 3", "2 2", "8 3 2 3"];
const LEFT = 48, RIGHT = 8, TOP = 6, BOTTOM = 20, NEAR = 300;
const plots = [...document.querySelectorAll(".plot")];
const slider = document.getElementById("smoothing");
const hidden = new Set();  // numbers of runs that are not drawn

function made(tag, attributes, parent) {
  const svg = ["svg", "path", "text", "circle", "line", "title"].includes(tag);
  const one = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, value);
  if (parent) parent.append(one);
  return one;
}

function styleOf({ reference, colour }) {
  if (reference) return { colour: "var(--soft)", dash: "4 3" };
  return { colour: `var(--c${colour % COLOURS})`, dash: DASHES[Math.floor(colour / COLOURS) % DASHES.length] };
}

function keyOf(style, parent) {
  const svg = made("svg", { class: "key", viewBox: "0 0 24 8", "aria-hidden": "true" }, parent);
  made("path", { d: "M0 4H24", "stroke-width": 2.4, "stroke-dasharray": style.dash, style: `stroke:${style.colour}` }, svg);
}

function nameOf(figure, line) {
  const several = new Set(figure.lines.map((one) => one.run)).size > 1;
  if (line.reference) return line.part;
  return several || data.runs.length > 1 ? [data.runs[line.run], line.part].filter(Boolean).join(" ") : line.part || data.runs[line.run];
}

function written(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-3) return value.toExponential(2).replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}

// a label of an axis whose labels are `apart`
function short(value, apart = value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(4))}k`;
  if (size > 0 && size < 1e-3) return value.toExponential(Number(value.toExponential(0)) === value ? 0 : 1);
  return String(Number(value.toFixed(Math.max(0, 1 - Math.floor(Math.log10(Math.abs(apart) || 1))))));
}

// an exponential moving average without the bias of its start
function smoothed(values, weight) {
  let sum = 0, total = 0;
  return values.map((value) => {
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return sum / total;
  });
}

// few points are no noise
function weightOf(figure, line) {
  return figure.smooth && line.value.length >= 30 ? Number(slider.value) : 0;
}

function ticks(low, high, about) {
  const rough = (high - low) / about, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n += 1) found.push(Number((n * step).toPrecision(12)));
  return found;
}

function decades(low, high) {
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  const each = Math.ceil((last - first) / 5), leading = last - first <= 2 ? [1, 2, 5] : [1];
  const found = [];
  for (let n = first; n <= last; n += each) for (const k of leading) found.push(Number((k * 10 ** n).toPrecision(6)));
  return found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
}

function rangeOf(lines, log) {
  let low = Infinity, high = -Infinity;
  for (const line of lines) {
    for (const value of line.low || line.value) if (!log || value > 0) low = Math.min(low, value);
    for (const value of line.high || line.value) if (!log || value > 0) high = Math.max(high, value);
  }
  if (low > high) return null;
  if (log) return low === high ? [low / 2, high * 2] : [low / 1.1, high * 1.1];
  const margin = low === high ? Math.abs(low) * 0.1 || 1 : (high - low) * 0.05;
  return [low - margin, high + margin];
}

function frame(figure, plot) {
  const lines = figure.lines.filter((line) => line.reference || !hidden.has(line.run));
  const steps = lines.map((line) => data.steps[line.at]);
  const log = plot.log, values = rangeOf(lines, log);
  if (!values) return null;
  let first = Math.min(...steps.map((list) => list[0])), last = Math.max(...steps.map((list) => list[list.length - 1]));
  if (first === last) { first -= 1; last += 1; }
  const width = plot.clientWidth, height = plot.clientHeight;
  const at = (value) => (log ? Math.log10(value) : value);
  const [low, high] = values.map(at);
  return {
    lines, first, last, width, height, values, log,
    x: (step) => LEFT + ((step - first) / (last - first)) * (width - LEFT - RIGHT),
    y: (value) => height - BOTTOM - ((at(log ? Math.max(value, values[0]) : value) - low) / (high - low)) * (height - TOP - BOTTOM),
    step: (x) => first + ((x - LEFT) / (width - LEFT - RIGHT)) * (last - first),
  };
}

function path(f, steps, values) {
  return "M" + values.map((value, i) => `${f.x(steps[i]).toFixed(1)} ${f.y(value).toFixed(1)}`).join("L");
}

function axes(f, svg) {
  const marks = f.log ? decades(...f.values) : ticks(...f.values, 6);
  for (const value of marks) {
    const y = f.y(value).toFixed(1);
    made("path", { d: `M${LEFT} ${y}H${f.width - RIGHT}`, style: "stroke:var(--line)" }, svg);
    made("text", { x: LEFT - 5, y: Number(y) + 4, "text-anchor": "end" }, svg).textContent = short(value, f.log ? value : marks[1] - marks[0]);
  }
  for (const step of ticks(f.first, f.last, f.width < 300 ? 4 : 6).filter(Number.isInteger)) {
    const x = f.x(step).toFixed(1);
    made("path", { d: `M${x} ${f.height - BOTTOM}v4`, style: "stroke:var(--soft)" }, svg);
    made("text", { x, y: f.height - 4, "text-anchor": x > f.width - 22 ? "end" : "middle" }, svg).textContent = short(step);
  }
  made("path", { d: `M${LEFT} ${f.height - BOTTOM}H${f.width - RIGHT}`, style: "stroke:var(--soft)" }, svg);
}

function inWords(figure, f) {
  return f.lines.map((line) => {
    const steps = data.steps[line.at], last = steps.length - 1;
    const ends = `${written(line.value[0])} at step ${steps[0]} to ${written(line.value[last])} at step ${steps[last]}`;
    return `${figure.title}, ${nameOf(figure, line)}: ${ends} ${figure.unit}`.trim();
  }).join("; ");
}

function draw(plot) {
  const figure = data.figures[plot.dataset.figure], f = frame(figure, plot);
  plot.replaceChildren();
  plot.frame = f;
  if (!f) { made("p", { class: "soft" }, plot).textContent = figure.lines.every((line) => hidden.has(line.run)) ? "No run of this figure is chosen." : "No value is above 0."; return; }
  const svg = made("svg", { role: "img", "aria-label": inWords(figure, f), fill: "none" }, plot);
  axes(f, svg);
  for (const line of f.lines) {
    const steps = data.steps[line.at], style = styleOf(line), weight = weightOf(figure, line);
    if (line.low) {
      const back = path(f, [...steps].reverse(), [...line.low].reverse());
      made("path", { d: `${path(f, steps, line.high)}L${back.slice(1)}Z`, "stroke-width": 0.8, style: `fill:${style.colour};fill-opacity:.16;stroke:${style.colour};stroke-opacity:.3` }, svg);
    }
    const shape = { "stroke-dasharray": style.dash, "stroke-linejoin": "round", "stroke-width": 1.7, style: `stroke:${style.colour}` };
    if (weight) made("path", { ...shape, "stroke-width": 1, d: path(f, steps, line.value), style: `${shape.style};opacity:.3` }, svg);
    made("path", { ...shape, d: path(f, steps, weight ? smoothed(line.value, weight) : line.value) }, svg);
    if (steps.length === 1) made("circle", { cx: f.x(steps[0]), cy: f.y(line.value[0]), r: 3, style: `fill:${style.colour}` }, svg);
  }
  alarms(figure, f, svg);
}

function alarms(figure, f, svg) {
  for (const run of new Set(f.lines.filter((line) => !line.reference).map((line) => line.run))) {
    for (const { step, text } of data.alarms[run]) {
      if (step < f.first || step > f.last) continue;
      const x = f.x(step), y = f.height - BOTTOM;
      const mark = made("path", { d: `M${x} ${y - 1}l-4.5 -8h9z`, style: "fill:#c77700" }, svg);
      made("title", {}, mark).textContent = `step ${step}: ${text}`;
    }
  }
}

function nearest(steps, step) {
  let low = 0, high = steps.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1; else high = middle;
  }
  return low && step - steps[low - 1] < steps[low] - step ? low - 1 : low;
}

function show(plot, step) {
  const f = plot.frame, figure = data.figures[plot.dataset.figure];
  if (!f) return;
  leave(plot);
  const own = f.lines.map((line) => ({ line, i: nearest(data.steps[line.at], step) }));
  const [at] = own.map(({ line, i }) => data.steps[line.at][i]).sort((a, b) => Math.abs(a - step) - Math.abs(b - step));
  plot.step = at;
  const svg = plot.querySelector("svg"), x = f.x(at);
  made("path", { class: "cursor", d: `M${x} ${TOP}V${f.height - BOTTOM}`, style: "stroke:var(--soft)" }, svg);
  const box = made("div", { class: "hover", role: "status" }, plot);
  made("div", {}, box).textContent = `step ${at.toLocaleString("en")}`;
  for (const { line, i } of own) {
    const steps = data.steps[line.at], weight = weightOf(figure, line);
    if (at < steps[0] || at > steps[steps.length - 1]) continue;
    const style = styleOf(line), row = made("div", {}, box);
    made("circle", { class: "cursor", cx: f.x(steps[i]), cy: f.y(line.value[i]), r: 3, style: `fill:${style.colour}` }, svg);
    keyOf(style, row);
    made("span", {}, row).textContent = nameOf(figure, line) + (steps[i] === at ? "" : ` (step ${steps[i].toLocaleString("en")})`);
    const range = line.low ? ` [${written(line.low[i])}, ${written(line.high[i])}]` : "";
    const mean = weight ? `, smoothed ${written(smoothed(line.value.slice(0, i + 1), weight)[i])}` : "";
    made("b", {}, row).textContent = written(line.value[i]) + range + mean;
  }
  for (const run of new Set(f.lines.filter((line) => !line.reference).map((line) => line.run))) {
    const near = data.alarms[run].filter((one) => Math.abs(f.x(one.step) - x) < 6);
    for (const one of near) made("div", {}, box).textContent = `\u26a0 step ${one.step}: ${one.text}`;
  }
  if (f.width < 420) box.style.top = `${f.height + 2}px`;  // it would hide the curve of a small screen
  const wide = box.offsetWidth, right = x + 10 + wide < f.width;
  box.style.left = `${Math.max(0, right ? x + 10 : Math.min(x - 10 - wide, f.width - wide))}px`;
}

function leave(plot) {
  for (const one of plot.querySelectorAll(".cursor, .hover")) one.remove();
}

function redraw() {
  document.getElementById("smoothed").textContent = Number(slider.value).toFixed(2);
  for (const plot of plots) {  // what is not near the screen is drawn when it comes there
    const { top, bottom } = plot.getBoundingClientRect();
    plot.frame = undefined;
    if (top < window.innerHeight + NEAR && bottom > -NEAR) draw(plot);
  }
}

function legend(figure, plot) {
  const parts = figure.lines.filter((line) => line.part);
  const box = plot.nextElementSibling;
  for (const line of new Map(parts.map((one) => [one.part, one])).values()) {
    const row = made("div", {}, box);
    keyOf(styleOf(line), row);
    made("span", {}, row).textContent = line.part;
  }
}

function choices() {
  if (data.runs.length < 2) return;
  data.runs.forEach((name, run) => {
    const label = made("label", {}, document.getElementById("runs"));
    const box = made("input", { type: "checkbox" }, label);
    box.checked = true;
    keyOf(styleOf({ colour: run }), label);
    made("span", {}, label).textContent = name;
    box.addEventListener("change", () => { if (box.checked) hidden.delete(run); else hidden.add(run); redraw(); });
  });
}

function prepare(plot) {
  const figure = data.figures[plot.dataset.figure], log = plot.closest("figure").querySelector(".log");
  plot.log = figure.log;
  log.checked = figure.log;
  log.parentElement.hidden = !figure.lines.every((line) => (line.low || line.value).some((value) => value > 0));
  log.addEventListener("change", () => { plot.log = log.checked; draw(plot); });
  const follow = (event) => plot.frame && show(plot, plot.frame.step(event.clientX - plot.getBoundingClientRect().left));
  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerdown", follow);
  plot.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") leave(plot); });
  plot.addEventListener("blur", () => leave(plot));
  plot.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || !plot.frame) return;
    event.preventDefault();
    const steps = [...new Set(plot.frame.lines.flatMap((line) => data.steps[line.at]))].sort((a, b) => a - b);
    const here = plot.step === undefined ? (by > 0 ? -1 : steps.length) : nearest(steps, plot.step);
    show(plot, steps[Math.min(steps.length - 1, Math.max(0, here + by))]);
  });
  legend(figure, plot);
}

document.querySelector(".controls").hidden = data.runs.length < 2 && !data.figures.some((one) => one.smooth);
plots.forEach(prepare);
choices();
slider.addEventListener("input", redraw);
window.addEventListener("resize", redraw);
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting && !target.frame) draw(target);
  }
}, { rootMargin: `${NEAR}px` });
plots.forEach((plot) => watcher.observe(plot));
window.addEventListener("beforeprint", () => plots.forEach(draw));
redraw();
