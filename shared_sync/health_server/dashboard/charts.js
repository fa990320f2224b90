// The charts of the history, which share a time axis and a read-out.

import { $, attempt, each, make, say, table } from "./document.js";
import { clock, count, formatOf, megabytes, milliseconds, percent, rate } from "./figures.js";
import { KEEP_SECONDS, RATE_SECONDS, history, rates } from "./history.js";

const SHORTEST_SECONDS = 60;
const STEPS = [15, 30, 60, 300, 900]; // seconds between two times that are written below a chart
const RANGES = [[300, "5 min"], [900, "15 min"], [KEEP_SECONDS, "1 h"]];

/** Round values for the lines of a scale from 0 to at least `max`: two to four steps of 1, 2 or 5. */
function ticks(max) {
  if (!(max > 0)) return [0, 1];
  const power = 10 ** Math.floor(Math.log10(max));
  const step = [0.2, 0.5, 1, 2, 5].map((f) => f * power).find((s) => max / s <= 4) ?? power * 5;
  const steps = Math.max(1, Math.ceil(max / step - 1e-9));
  return Array.from({ length: steps + 1 }, (_, i) => Number((i * step).toPrecision(12)));
}

const has = (names) => names.filter((name) => history.figures.has(name));
const parts = (stem) => [...history.figures.keys()].filter((name) => name.startsWith(`${stem}{`)).sort();
const gpu = (name) => `GPU ${name.match(/gpu=([^},]*)/)?.[1] ?? ""}`;
const level = (name, label) => ({ name, label });
const growth = (name, label) => ({ name, label, counter: true });

/** The durations that have percentiles, the most telling first. */
function durations() {
  const names = [...history.figures.keys()].map((name) => name.match(/^p50_([^{]+)_ms$/)?.[1]).filter(Boolean).sort();
  const first = ["processing_latency", "transcription_time", "translation_time"].filter((name) => names.includes(name));
  return [...new Set([...first, ...names])];
}

const LABELS = {
  jobs_processed: "processed", jobs_sent: "sent", results_received: "results back",
  entries_finished_total: "finished", entries_added_total: "added", jobs_failed: "failed attempts",
  jobs_dead: "given up", dead_letters: "given up", total_errors: "errors", jobs_recovered: "taken over",
  queue_depth: "unfinished", queue_waiting: "waiting", jobs_parked: "parked",
};
const named = (names, how) => has(names).map((name) => how(name, LABELS[name]));

/** Whether this is a group seen from outside, by a process whose own counts of jobs stay at 0. */
const isWatch = () => has(["consumers_alive"]).length > 0;

const CHARTS = [
  { title: "Throughput", format: rate, series: () => named(isWatch()
    ? ["entries_finished_total", "entries_added_total"] : ["jobs_processed", "jobs_sent", "results_received"], growth) },
  { title: "Failures", format: rate, colour: 1, series() {
    if (isWatch()) return named(["dead_letters"], growth);
    const own = named(["jobs_failed", "jobs_dead", "jobs_recovered"], growth);
    return own.length ? own : named(["total_errors"], growth);
  } },
  { title: "Latency", format: milliseconds, choices: durations, series(chosen) {
    return ["p50", "p95", "p99"].map((p) => level(`${p}_${chosen}_ms`, p)).filter(({ name }) => has([name]).length);
  } },
  { title: "Queue", format: count, series: () => named(["queue_depth", "queue_waiting", "jobs_parked"], level) },
  { title: "Memory", format: megabytes, base: 1024, series: () => [
    ...has(["memory_usage_mb"]).map((name) => level(name, "process")),
    ...parts("gpu_memory_used_mb").map((name) => level(name, gpu(name)))] },
  { title: "CPU and GPU", format: percent, series: () => [
    ...has(["cpu_percent"]).map((name) => level(name, "CPU")),
    ...parts("gpu_utilization_percent").map((name) => level(name, gpu(name)))] },
];
const DASHES = ["", "6 3", "1.5 3.5", "9 3 2 3", "3 3", "12 4", "1.5 6", "6 3 1.5 3"];
const GUTTER = 50; // pixels left of a chart, for the numbers of its scale
const look = (at, colour) => ({ class: `stroke series-${(at + colour) % 4}`, "stroke-dasharray": DASHES[at % DASHES.length] });

const view = { cursor: null, range: null }; // what all charts share: the time read out, the length shown

/** First and last moment of the shared time axis. */
function domain() {
  const times = history.times;
  const end = times.at(-1) ?? Date.now() / 1000;
  // Of a worker that has just begun all is shown, or its lines would stand in the last corner.
  const span = view.range === null ? Math.max(SHORTEST_SECONDS, end - (times[0] ?? end)) : range();
  return [end - Math.min(span, range()), end];
}

/** The length chosen, or the shortest that holds all there is: a young worker's hour is mostly empty. */
function range() {
  const times = history.times;
  const span = (times.at(-1) ?? 0) - (times[0] ?? 0);
  return view.range ?? (RANGES.find(([seconds]) => span <= seconds) ?? RANGES.at(-1))[0];
}

class Chart {
  constructor(parent, spec) {
    this.spec = spec;
    this.colour = spec.colour ?? 0; // of the first line
    this.node = make(parent, "section", { class: "card chart", "aria-label": `${spec.title} over time` });
    const title = make(this.node, "div", { class: "title" });
    make(title, "h3", {}, spec.title);
    if (spec.choices) {
      this.choice = make(title, "select", { "aria-label": "Which duration" });
      this.choice.addEventListener("change", () => this.draw());
    }
    this.at = make(title, "span", { class: "at" });
    this.legend = make(this.node, "ul", { class: "legend" });
    // A slider is what arrow keys move through values and what is read aloud at each of them.
    const name = `${spec.title}: read-out, arrow keys move it in time`;
    this.plot = make(this.node, "div", { class: "plot", tabindex: "0", role: "slider", "aria-label": name });
    this.svg = make(this.plot, "svg", { "aria-hidden": "true" });
    this.lines = make(this.svg, "g");
    this.marks = make(this.svg, "g");
    const alternative = make(this.node, "details", { class: "alternative" });
    make(alternative, "summary", {}, "As a table");
    this.fillTable = table(alternative, `${spec.title}: latest, least and most`, [
      { label: "Figure", cell: (row) => row.label },
      { label: "Latest", number: true, cell: (row) => spec.format(row.latest) },
      { label: "Least", number: true, cell: (row) => spec.format(row.least) },
      { label: "Most", number: true, cell: (row) => spec.format(row.most) },
    ], (row) => row.name);
    this.plot.addEventListener("pointermove", (event) => this.readAt(event));
    this.plot.addEventListener("pointerdown", (event) => this.readAt(event));
    this.plot.addEventListener("pointerleave", () => read(null));
    this.plot.addEventListener("focus", () => {
      if (view.cursor === null && this.plot.matches(":focus-visible")) read(history.times.at(-1) ?? null);
    });
    this.plot.addEventListener("blur", () => read(null));
    this.plot.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  draw() {
    const { times, period } = history;
    if (this.choice) {
      const choices = this.spec.choices();
      each(this.choice, choices, (name) => name, (name) => new Option(name.replaceAll("_", " "), name), () => {});
      this.choice.hidden = choices.length < 2;
    }
    const series = this.spec.series(this.choice?.value);
    this.node.hidden = series.length === 0;
    this.width = this.plot.clientWidth;
    if (this.node.hidden || !this.width) return;
    [this.start, this.end] = domain();
    this.from = Math.max(0, times.findIndex((time) => time >= this.start - period));
    this.series = series.map((one) => {
      const column = history.figures.get(one.name);
      return { ...one, values: one.counter ? rates(times, column, RATE_SECONDS, period * 3) : column };
    });
    this.scale();
    this.lines.replaceChildren();
    this.drawGrid();
    this.series.forEach((one, at) => this.drawLine(one, at));
    this.drawLegend();
    this.fillTable(this.series.map((one) => {
      const seen = this.seen(one);
      const [least, most] = seen.length ? [Math.min(...seen), Math.max(...seen)] : [null, null];
      return { ...one, latest: one.values.at(-1), least, most };
    }));
    this.readOut();
  }

  /** What is known of a line within the time shown. */
  seen({ values }) {
    return values.slice(this.from).filter((value) => value !== null);
  }

  scale() {
    const seen = this.series.flatMap((one) => this.seen(one));
    const [least, most] = [Math.min(0, ...seen), Math.max(0, ...seen)];
    const base = this.spec.base ?? 1000;
    const unit = this.spec.base ? base ** Math.max(0, Math.floor(Math.log(most || 1) / Math.log(base))) : 1;
    this.ticks = ticks(most / unit).map((tick) => tick * unit);
    this.height = this.plot.clientHeight;
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    const [top, bottom] = [14, this.height - 20];
    this.x = (time) => GUTTER + ((time - this.start) / (this.end - this.start)) * (this.width - GUTTER - 4);
    this.y = (value) => bottom - ((value - least) / (this.ticks.at(-1) - least)) * (bottom - top);
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
      make(this.lines, "line", { class: "grid", x1: x, x2: x, y1: this.y(0), y2: this.y(0) + 4 });
      make(this.lines, "text", { x, y: this.height - 4, "text-anchor": "middle" }, clock(time, parts));
    }
    for (const mark of history.marks.filter(({ at }) => at > this.start)) {
      const x = this.x(mark.at);
      make(this.lines, "line", { class: "restart", x1: x, x2: x, y1: 0, y2: this.y(0) });
      const [at, anchor] = x > GUTTER + 90 ? [x - 4, "end"] : [x + 4, "start"];
      make(this.lines, "text", { x: at, y: 8, "text-anchor": anchor }, mark.text);
    }
  }

  drawLine({ values }, at) {
    const times = history.times;
    let [path, area, begun, last] = ["", "", null, null];
    const end = () => { if (begun !== null) area += `L${last} ${this.y(0)}L${begun} ${this.y(0)}z`; begun = null; };
    for (let i = this.from; i < values.length; i += 1) {
      if (values[i] === null || times[i] < this.start || (i > 0 && times[i] - times[i - 1] > history.period * 3)) end();
      if (values[i] === null || times[i] < this.start) continue;
      const x = this.x(times[i]).toFixed(1);
      const point = `${x} ${this.y(values[i]).toFixed(1)}`;
      // A value alone between two gaps still shows: a line of no length has round ends.
      path += begun === null ? `M${point}L${point}` : `L${point}`;
      area += begun === null ? `M${point}` : `L${point}`;
      if (begun === null) begun = x;
      last = x;
    }
    end();
    if (at === 0) make(this.lines, "path", { class: `area series-${this.colour}`, d: area });
    make(this.lines, "path", { ...look(at, this.colour), d: path });
  }

  drawLegend() {
    each(this.legend, this.series, ({ name }) => name, ({ label }) => {
      const item = document.createElement("li");
      const key = make(item, "svg", { viewBox: "0 0 18 8", "aria-hidden": "true" });
      make(key, "line", { x1: 1, x2: 17, y1: 4, y2: 4 });
      make(item, "span", {}, label);
      make(item, "b");
      return item;
    }, (item, one) => {
      const style = look(this.series.indexOf(one), this.colour);
      for (const [name, value] of Object.entries(style)) item.firstChild.firstChild.setAttribute(name, value);
    });
  }

  /** Show the values at the cursor, which all charts share, or the latest. */
  readOut() {
    if (this.node.hidden || !this.series) return;
    const { times } = history;
    const at = view.cursor === null ? times.length - 1 : nearest(times, view.cursor);
    const reading = view.cursor !== null && at >= 0;
    const values = this.series.map(({ values: column }) => column[at] ?? null);
    say(this.at, reading ? clock(times[at]) : "");
    this.series.forEach((_, i) => say(this.legend.children[i].lastChild, this.spec.format(values[i])));
    this.marks.replaceChildren();
    if (reading) {
      const x = this.x(times[at]);
      make(this.marks, "line", { class: "cursor", x1: x, x2: x, y1: 0, y2: this.y(0) });
      values.forEach((value, i) => {
        const dot = { class: `dot series-${(i + this.colour) % 4}`, cx: x, r: 3.5 };
        if (value !== null) make(this.marks, "circle", { ...dot, cy: this.y(value) });
      });
    }
    const set = (name, value) => this.plot.setAttribute(`aria-${name}`, value);
    set("valuemin", Math.min(this.from, Math.max(0, times.length - 1)));
    set("valuemax", Math.max(0, times.length - 1));
    set("valuenow", Math.max(0, at));
    const told = this.series.map(({ label }, i) => `${label} ${values[i] === null ? "unknown" : this.spec.format(values[i])}`);
    set("valuetext", at < 0 ? "no figures so far" : `${clock(times[at])}: ${told.join(", ")}`);
  }

  readAt(event) {
    const share = (event.clientX - this.plot.getBoundingClientRect().left - GUTTER) / (this.width - GUTTER - 4);
    if (this.series && history.times.length) read(this.start + share * (this.end - this.start));
  }

  key(event) {
    const { times } = history;
    if (!times.length || !this.series) return;
    const at = nearest(times, view.cursor ?? times.at(-1));
    const far = Math.max(1, Math.round((times.length - this.from) / 10));
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -far, PageUp: far };
    const to = { Home: this.from, End: times.length - 1 }[event.key] ?? at + steps[event.key];
    if (Number.isNaN(to) && event.key !== "Escape") return;
    event.preventDefault();
    read(event.key === "Escape" ? null : times[Math.min(times.length - 1, Math.max(this.from, to))]);
  }
}

/** The place of the sample nearest to a time; -1 if there is none. */
function nearest(times, time) {
  let best = times.length - 1;
  while (best > 0 && Math.abs(times[best - 1] - time) <= Math.abs(times[best] - time)) best -= 1;
  return best;
}

/** Move the read-out of all charts to a time, or back to the latest. */
function read(time) {
  view.cursor = time;
  for (const chart of charts) chart.readOut();
}

let charts = [];
let chosen = null; // the chart of the figure chosen among all figures

/** Draw all charts anew, with a note on what there is to see; `problem` is why that is not the newest. */
export function drawCharts(problem) {
  for (const chart of charts) attempt(chart.node, "chart", () => chart.draw());
  for (const button of $("ranges").children) button.setAttribute("aria-pressed", String(Number(button.value) === range()));
  const none = charts.every((chart) => chart === chosen || chart.node.hidden);
  const { times, figures } = history;
  const note = times.length === 0 ? "The first samples are on their way."
    : none && figures.size === 0 ? "No figures to draw: give HealthServer the get_metrics_data of a WorkerMetrics."
      : none ? "None of the figures drawn here is told; “All figures” draws the others."
        : times.length < 3 ? "Just begun: a rate needs two samples." : `Rates are means over ${RATE_SECONDS} s.`;
  say($("history-note"), problem || note);
  $("ranges").hidden = none && chosen === null;
}

/** Draw the figure of this name in a chart of its own, or none if it was the one drawn. */
export function choose(name) {
  const again = isChosen(name);
  charts = charts.filter((chart) => chart !== chosen);
  $("chosen").replaceChildren();
  chosen = null;
  if (again) return;
  const series = () => has([name]).map((one) => level(one, one));
  chosen = new Chart($("chosen"), { title: name, format: formatOf(name), series });
  charts.push(chosen);
  chosen.draw();
  chosen.node.scrollIntoView({ block: "nearest" });
}

export const isChosen = (name) => chosen?.spec.title === name;

export function makeCharts(redraw) {
  for (const [seconds, label] of RANGES) {
    const button = make($("ranges"), "button", { type: "button", value: seconds, "aria-pressed": "false" }, label);
    button.addEventListener("click", () => {
      view.range = seconds;
      redraw();
    });
  }
  charts = CHARTS.map((spec) => new Chart($("chart-grid"), spec));
}
