// Which charts the page has, and what each of them shows.

import { Chart, RANGES, charts, range, view } from "./chart.js";
import { $, attempt, make, setText } from "./dom.js";
import { count, formatOf, megabytes, milliseconds, percent, rate } from "./format.js";
import { RATE_SECONDS, history } from "./history.js";

const has = (names) => names.filter((name) => history.columns.has(name));
const used = (names) => has(names).filter((name) => history.columns.get(name).some((value) => value > 0));
const parts = (stem) => [...history.columns.keys()].filter((name) => name.startsWith(`${stem}{`)).sort();
const level = (name, label) => ({ name, label });
let metrics = {}; // the newest values, also those that are no numbers

/** The lines of a value of all GPUs, each with the name of its GPU for the pointer that rests on it. */
const ofGpus = (stem, suffix = "") => parts(stem).map((name) => {
  const number = name.match(/gpu=([^},]*)/)?.[1] ?? "";
  return { ...level(name, `GPU ${number}${suffix}`), title: metrics[`gpu_name{gpu=${number}}`] };
});
const growth = (name, label) => ({ name, label, counter: true });

const NOT_OF_JOBS = ["redis_round_trip", "processor_load"];

/** The durations of jobs that have percentiles, the most important ones first. */
function durations() {
  const names = [...history.columns.keys()].map((name) => name.match(/^p50_([^{]+)_ms$/)?.[1])
    .filter((name) => name && !NOT_OF_JOBS.includes(name)).sort();
  const first = ["processing_latency", "job_round_trip", "transcription_time", "translation_time"].filter((name) => names.includes(name));
  return [...new Set([...first, ...names])];
}

const LABELS = {
  jobs_processed: "processed", jobs_sent: "sent", results_received: "results back",
  entries_finished_total: "finished", entries_added_total: "added", jobs_failed: "failed attempts",
  jobs_dead: "given up", dead_letters: "given up", total_errors: "errors", jobs_recovered: "taken over",
  queue_depth: "unfinished", queue_waiting: "waiting", jobs_parked: "parked", scheduled: "scheduled",
  jobs_expired: "expired", jobs_cancelled: "cancelled", replies_dropped: "results dropped",
};
const named = (names, how) => has(names).map((name) => how(name, LABELS[name]));

/** Whether the server is `health serve`, which inspects a group and processes no jobs itself. */
const isMonitor = () => has(["consumers_alive"]).length > 0;

const CHARTS = [
  { title: "Throughput", format: rate, series: () => named(isMonitor()
    ? ["entries_finished_total", "entries_added_total"] : ["jobs_processed", "jobs_sent", "results_received"], growth) },
  { title: "Failures", format: rate, colour: 1, series() {
    if (isMonitor()) return named(["dead_letters"], growth);
    const own = named(["jobs_failed", "jobs_dead", "jobs_recovered"], growth);
    return own.length ? own : named(["total_errors"], growth);
  } },
  { title: "Latency", format: milliseconds, mayBeLogarithmic: true, choices: durations, series(chosen) {
    return ["p50", "p95", "p99"].map((p) => level(`${p}_${chosen}_ms`, p)).filter(({ name }) => has([name]).length);
  } },
  { title: "Expired, cancelled, dropped", format: rate, colour: 2,
    series: () => named(used(["jobs_expired", "jobs_cancelled", "replies_dropped"]), growth) },
  { title: "Queue", format: count,
    series: () => named(["queue_depth", "queue_waiting", "jobs_parked", ...used(["scheduled"])], level) },
  { title: "Memory", format: megabytes, base: 1024, series: () => [
    ...has(["memory_usage_mb"]).map((name) => level(name, "process")),
    ...ofGpus("gpu_memory_used_mb"), ...ofGpus("gpu_process_memory_used_mb", ", this worker")] },
  { title: "CPU and GPU", format: percent, series: () => [
    ...has(["cpu_percent"]).map((name) => level(name, "CPU")),
    ...ofGpus("gpu_utilization_percent")] },
];
let chosen = null; // the chart of the value that the reader chose in the table of all values

/** Draw all charts, with a note on what they show; `problem` says why that is not the newest, if so. */
export function drawCharts(state, problem) {
  metrics = state.metrics;
  for (const chart of charts) attempt(chart.node, "chart", () => chart.draw());
  for (const button of $("ranges").children) button.setAttribute("aria-pressed", String(Number(button.value) === range()));
  const none = [...charts].every((chart) => chart === chosen || chart.node.hidden);
  const { times, columns } = history;
  const note = times.length === 0 ? "The first samples have not arrived yet."
    : none && columns.size === 0 ? "No values to draw: give HealthServer the get_metrics_data of a WorkerMetrics."
      : none ? "None of the values drawn here is reported; “All values” draws the others."
        : times.length < 3 ? "Just started: a rate needs two samples." : `Rates are means over ${RATE_SECONDS} s.`;
  setText($("history-note"), problem || note);
  $("ranges").hidden = none && chosen === null;
}

/** Draw the values of this name in a chart of their own; remove that chart if it was there already. */
export function choose(name) {
  const again = isChosen(name);
  charts.delete(chosen);
  $("chosen").replaceChildren();
  chosen = null;
  if (again) return;
  const series = () => has([name]).map((one) => level(one, one));
  chosen = new Chart($("chosen"), { title: name, format: formatOf(name), series });
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
  for (const spec of CHARTS) new Chart($("chart-grid"), spec);
}
