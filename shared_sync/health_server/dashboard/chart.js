// One chart of the history. All charts share the time axis and the cursor.

import { make, setText, table, updateChildren } from "./dom.js";
import { clock } from "./format.js";
import { KEEP_SECONDS, RATE_SECONDS, history, rates } from "./history.js";

const SHORTEST_SECONDS = 60;
const STEPS = [15, 30, 60, 300, 900]; // seconds between two times that are written below a chart
export const RANGES = [[300, "5 min"], [900, "15 min"], [KEEP_SECONDS, "1 h"]];

const DASHES = ["", "6 3", "1.5 3.5", "9 3 2 3", "3 3", "12 4", "1.5 6", "6 3 1.5 3"];
const GUTTER = 50; // pixels left of a chart, for the numbers of its scale
const strokeOf = (at, colour) => ({ class: `stroke series-${(at + colour) % 4}`, "stroke-dasharray": DASHES[at % DASHES.length] });

/** What all charts share: the time at the cursor (null for the latest) and the length of time chosen. */
export const view = { cursor: null, range: null };
export const charts = new Set();

/** First and last moment of the shared time axis. */
function domain() {
  const times = history.times;
  const end = times.at(-1) ?? Date.now() / 1000;
  // A worker that has just started is shown from its start, or its lines would fill the last corner only.
  const span = view.range === null ? Math.max(SHORTEST_SECONDS, end - (times[0] ?? end)) : range();
  return [end - Math.min(span, range()), end];
}

/** The length chosen in seconds, or the shortest that holds the whole history. */
export function range() {
  const times = history.times;
  const span = (times.at(-1) ?? 0) - (times[0] ?? 0);
  return view.range ?? (RANGES.find(([seconds]) => span <= seconds) ?? RANGES.at(-1))[0];
}

/** Round numbers for a scale from 0 to at least `max`: up to four steps of 1, 2 or 5 times a power of 10. */
function ticks(max) {
  if (!(max > 0)) return [0, 1];
  const power = 10 ** Math.floor(Math.log10(max));
  const step = [0.2, 0.5, 1, 2, 5].map((f) => f * power).find((s) => max / s <= 4) ?? power * 5;
  const steps = Math.max(1, Math.ceil(max / step - 1e-9));
  return Array.from({ length: steps + 1 }, (_, i) => Number((i * step).toPrecision(12)));
}

/** Whether the lines lie so far apart now that the lowest could not be read beside the highest. */
function differByTenTimes(newest) {
  const known = newest.filter((value) => value > 0);
  return known.length > 1 && Math.max(...known) >= 10 * Math.min(...known);
}

/** The powers of 10 for a logarithmic scale, from the one below the lowest value to the one above the highest. */
function powersOfTen(known) {
  const positive = known.filter((value) => value > 0);
  const first = Math.floor(Math.log10(Math.min(...positive)));
  const last = Math.max(first + 1, Math.ceil(Math.log10(Math.max(...positive))));
  return Array.from({ length: last - first + 1 }, (_, i) => Number((10 ** (first + i)).toPrecision(12)));
}

/** The index of the sample nearest to a time; -1 if there is none. */
function nearest(times, time) {
  let best = times.length - 1;
  while (best > 0 && Math.abs(times[best - 1] - time) <= Math.abs(times[best] - time)) best -= 1;
  return best;
}

/** Move the cursor of all charts to a time, or with null back to the latest. */
function moveCursor(time) {
  view.cursor = time;
  for (const chart of charts) chart.showValues();
}

/** A chart as `spec` describes it: title, format, series(choice), and optionally choices, base and colour. */
export class Chart {
  constructor(parent, spec) {
    charts.add(this);
    this.spec = spec;
    this.colour = spec.colour ?? 0; // of the first line
    this.node = make(parent, "section", { class: "card chart", "aria-label": `${spec.title} over time` });
    const title = make(this.node, "div", { class: "title" });
    make(title, "h3", {}, spec.title);
    this.axis = make(title, "span", { class: "muted small" });
    if (spec.choices) {
      this.choice = make(title, "select", { "aria-label": "Which duration" });
      this.choice.addEventListener("change", () => this.draw());
    }
    this.at = make(title, "span", { class: "at" });
    this.legend = make(this.node, "ul", { class: "legend" });
    // A slider can be moved by arrow keys, and a screen reader reads its value at each position.
    const name = `${spec.title}: values at the cursor, which the arrow keys move`;
    this.plot = make(this.node, "div", { class: "plot", tabindex: "0", role: "slider", "aria-label": name });
    this.svg = make(this.plot, "svg", { "aria-hidden": "true" });
    this.lines = make(this.svg, "g");
    this.marks = make(this.svg, "g");
    const alternative = make(this.node, "details", { class: "alternative" });
    make(alternative, "summary", {}, "As a table");
    this.fillTable = table(alternative, `${spec.title}: latest, lowest and highest`, [
      { label: "Value", cell: (row) => row.label },
      { label: "Latest", number: true, cell: (row) => spec.format(row.latest) },
      { label: "Lowest", number: true, cell: (row) => spec.format(row.lowest) },
      { label: "Highest", number: true, cell: (row) => spec.format(row.highest) },
    ], (row) => row.name);
    this.plot.addEventListener("pointermove", (event) => this.followPointer(event));
    this.plot.addEventListener("pointerdown", (event) => this.followPointer(event));
    this.plot.addEventListener("pointerleave", () => moveCursor(null));
    this.plot.addEventListener("focus", () => {
      if (view.cursor === null && this.plot.matches(":focus-visible")) moveCursor(history.times.at(-1) ?? null);
    });
    this.plot.addEventListener("blur", () => moveCursor(null));
    this.plot.addEventListener("keydown", (event) => this.followKey(event));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  draw() {
    const { times, period } = history;
    if (this.choice) {
      const choices = this.spec.choices();
      updateChildren(this.choice, choices, (name) => name, (name) => new Option(name.replaceAll("_", " "), name), () => {});
      this.choice.hidden = choices.length < 2;
    }
    const series = this.spec.series(this.choice?.value);
    this.node.hidden = series.length === 0;
    this.width = this.plot.clientWidth;
    if (this.node.hidden || !this.width) return;
    [this.start, this.end] = domain();
    this.from = Math.max(0, times.findIndex((time) => time >= this.start - period));
    this.series = series.map((one) => {
      const column = history.columns.get(one.name);
      return { ...one, values: one.counter ? rates(times, column, RATE_SECONDS, period * 3) : column };
    });
    this.scale();
    setText(this.axis, this.isLogarithmic ? "logarithmic" : "");
    this.lines.replaceChildren();
    this.drawGrid();
    this.series.forEach((one, at) => this.drawLine(one, at));
    this.drawLegend();
    this.fillTable(this.series.map((one) => {
      const known = this.knownValues(one);
      const [lowest, highest] = known.length ? [Math.min(...known), Math.max(...known)] : [null, null];
      return { ...one, latest: one.values.at(-1), lowest, highest };
    }));
    this.showValues();
  }

  /** The known values of a line within the time shown. */
  knownValues({ values }) {
    return values.slice(this.from).filter((value) => value !== null);
  }

  scale() {
    const known = this.series.flatMap((one) => this.knownValues(one));
    this.height = this.plot.clientHeight;
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    const [top, bottom] = [14, this.height - 20];
    this.x = (time) => GUTTER + ((time - this.start) / (this.end - this.start)) * (this.width - GUTTER - 4);
    this.isLogarithmic = Boolean(this.spec.mayBeLogarithmic) && differByTenTimes(this.series.map((one) => one.values.at(-1)));
    if (this.isLogarithmic) {
      this.ticks = powersOfTen(known);
      const [low, high] = [Math.log10(this.ticks[0]), Math.log10(this.ticks.at(-1))];
      this.y = (value) => bottom - ((Math.log10(Math.max(value, this.ticks[0])) - low) / (high - low)) * (bottom - top);
      return;
    }
    const [lowest, highest] = [Math.min(0, ...known), Math.max(0, ...known)];
    const base = this.spec.base ?? 1000;
    const unit = this.spec.base ? base ** Math.max(0, Math.floor(Math.log(highest || 1) / Math.log(base))) : 1;
    this.ticks = ticks(highest / unit).map((tick) => tick * unit);
    this.y = (value) => bottom - ((value - lowest) / (this.ticks.at(-1) - lowest)) * (bottom - top);
  }

  /** Where values of 0 are, and on a logarithmic axis the smallest ones. */
  floor() {
    return this.y(this.isLogarithmic ? this.ticks[0] : 0);
  }

  drawGrid() {
    for (const tick of this.ticks) {
      const y = this.y(tick);
      make(this.lines, "line", { class: "grid", x1: GUTTER, x2: this.width, y1: y, y2: y });
      make(this.lines, "text", { x: GUTTER - 6, y: y + 4, "text-anchor": "end" }, tick === 0 ? "0" : this.spec.format(tick));
    }
    const step = STEPS.find((seconds) => (this.end - this.start) / seconds <= 5);
    const parts = { hour: "2-digit", minute: "2-digit", ...(step < 60 ? { second: "2-digit" } : {}) };
    for (let time = Math.ceil(this.start / step) * step; time <= this.end; time += step) {
      const x = this.x(time);
      if (x > this.width - 16) continue;
      make(this.lines, "line", { class: "grid", x1: x, x2: x, y1: this.floor(), y2: this.floor() + 4 });
      make(this.lines, "text", { x, y: this.height - 4, "text-anchor": "middle" }, clock(time, parts));
    }
    for (const mark of history.marks.filter(({ at }) => at > this.start)) {
      const x = this.x(mark.at);
      make(this.lines, "line", { class: "restart", x1: x, x2: x, y1: 0, y2: this.floor() });
      const [at, anchor] = x > GUTTER + 90 ? [x - 4, "end"] : [x + 4, "start"];
      make(this.lines, "text", { x: at, y: 8, "text-anchor": anchor }, mark.text);
    }
  }

  drawLine({ values }, at) {
    const times = history.times;
    let [path, area, begun, last] = ["", "", null, null];
    const end = () => { if (begun !== null) area += `L${last} ${this.floor()}L${begun} ${this.floor()}z`; begun = null; };
    for (let i = this.from; i < values.length; i += 1) {
      if (values[i] === null || times[i] < this.start || (i > 0 && times[i] - times[i - 1] > history.period * 3)) end();
      if (values[i] === null || times[i] < this.start) continue;
      const x = this.x(times[i]).toFixed(1);
      const point = `${x} ${this.y(values[i]).toFixed(1)}`;
      // A single value between two gaps is still visible: a line without length has round ends.
      path += begun === null ? `M${point}L${point}` : `L${point}`;
      area += begun === null ? `M${point}` : `L${point}`;
      if (begun === null) begun = x;
      last = x;
    }
    end();
    if (at === 0 && !this.isLogarithmic) make(this.lines, "path", { class: `area series-${this.colour}`, d: area });
    make(this.lines, "path", { ...strokeOf(at, this.colour), d: path });
  }

  drawLegend() {
    updateChildren(this.legend, this.series, ({ name }) => name, ({ label }) => {
      const item = document.createElement("li");
      const key = make(item, "svg", { viewBox: "0 0 18 8", "aria-hidden": "true" });
      make(key, "line", { x1: 1, x2: 17, y1: 4, y2: 4 });
      make(item, "span", {}, label);
      make(item, "b");
      return item;
    }, (item, one) => {
      item.title = one.title ?? "";
      const style = strokeOf(this.series.indexOf(one), this.colour);
      for (const [name, value] of Object.entries(style)) item.firstChild.firstChild.setAttribute(name, value);
    });
  }

  /** Show the values at the cursor, or the latest. */
  showValues() {
    if (this.node.hidden || !this.series) return;
    const { times } = history;
    const at = view.cursor === null ? times.length - 1 : nearest(times, view.cursor);
    const hasCursor = view.cursor !== null && at >= 0;
    const values = this.series.map(({ values: column }) => column[at] ?? null);
    setText(this.at, hasCursor ? clock(times[at]) : "");
    this.series.forEach((_, i) => setText(this.legend.children[i].lastChild, this.spec.format(values[i])));
    this.marks.replaceChildren();
    if (hasCursor) {
      const x = this.x(times[at]);
      make(this.marks, "line", { class: "cursor", x1: x, x2: x, y1: 0, y2: this.floor() });
      values.forEach((value, i) => {
        const dot = { class: `dot series-${(i + this.colour) % 4}`, cx: x, r: 3.5 };
        if (value !== null) make(this.marks, "circle", { ...dot, cy: this.y(value) });
      });
    }
    const set = (name, value) => this.plot.setAttribute(`aria-${name}`, value);
    set("valuemin", Math.min(this.from, Math.max(0, times.length - 1)));
    set("valuemax", Math.max(0, times.length - 1));
    set("valuenow", Math.max(0, at));
    const parts = this.series.map(({ label }, i) => `${label} ${values[i] === null ? "unknown" : this.spec.format(values[i])}`);
    set("valuetext", at < 0 ? "no values yet" : `${clock(times[at])}: ${parts.join(", ")}`);
  }

  followPointer(event) {
    const share = (event.clientX - this.plot.getBoundingClientRect().left - GUTTER) / (this.width - GUTTER - 4);
    if (this.series && history.times.length) moveCursor(this.start + share * (this.end - this.start));
  }

  followKey(event) {
    const { times } = history;
    if (!times.length || !this.series) return;
    const at = nearest(times, view.cursor ?? times.at(-1));
    const far = Math.max(1, Math.round((times.length - this.from) / 10));
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -far, PageUp: far };
    const to = { Home: this.from, End: times.length - 1 }[event.key] ?? at + steps[event.key];
    if (Number.isNaN(to) && event.key !== "Escape") return;
    event.preventDefault();
    moveCursor(event.key === "Escape" ? null : times[Math.min(times.length - 1, Math.max(this.from, to))]);
  }
}
