// How a whole group is: what is wrong and what to do, its sizes and rates, workers, jobs and events.

import { $, attempt, badge, code, make, oneWord, setParts, setText, table, textOf, updateChildren } from "./dom.js";
import { age, capital, clock, count, duration, exact, isNumber, milliseconds, plural, rate } from "./format.js";
import { Timeline } from "./timeline.js";
import { aged, isRow } from "./rows.js";

const HOUR = 3600;
const FEW_EVENTS = 8;
const rowsOf = (list) => (Array.isArray(list) ? list.filter(isRow) : []);

const WORKER_TONES = { running: "good", loading: "", paused: "warn", draining: "warn", gone: "bad", silent: "bad" };
const WORKERS = [
  { label: "State", bare: true, cell: (worker) => badge(worker.state, WORKER_TONES[worker.state]) },
  { label: "Worker", bare: true, cell: (worker) => code(worker.name) },
  { label: "Jobs", number: true, cell: ({ running, threads }) => (isNumber(threads) ? `${exact(running)} of ${exact(threads)}` : "–") },
  { label: "Throughput", number: true, cell: (worker) => rate(worker.done_per_second) },
  { label: "p95", number: true, cell: (worker) => milliseconds(worker.latency?.p95_ms) },
  { label: "Done", number: true, cell: (worker) => count(worker.done) },
  { label: "Retried", number: true, cell: (worker) => count(worker.retried) },
  { label: "Given up", number: true, cell: (worker) => count(worker.dead) },
  { label: "Release", cell: (worker) => oneWord(worker.release) },
  { label: "Since", number: true, cell: (worker) => age(worker.started_seconds) },
  { label: "Note", wide: true, cell: (worker) => worker.note || "–" },
];
const JOBS = [
  { label: "State", bare: true, cell: (job) => badge(textOf(job.state)) },
  { label: "Message", bare: true, cell: (job) => code(job.message_id) },
  { label: "Worker", bare: true, cell: (job) => code(job.worker) },
  { label: "Attempt", number: true, cell: (job) => textOf(job.attempt) },
  { label: "Age", number: true, cell: (job) => age(job.seconds) },
  { label: "Progress", number: true, cell: ({ progress }) => (isNumber(progress)
    ? [`${Math.round(progress * 100)} %`, { share: progress, class: "good" }] : "–") },
];
const EVENT_TONES = {
  gone: "bad", taken_over: "warn", redis_back: "warn", release: "good", started: "", left: "", paused: "warn", resumed: "good",
};

/** What a tile of the group shows: label, value, and a note below. */
function tiles(status, report) {
  const next = status.next_parked_seconds;
  const over = status.rates_over_seconds;
  const note = isNumber(over) ? `over ${duration(Math.round(over))}` : "";
  const doesNotShrink = !isNumber(status.seconds_to_empty) && isNumber(status.arrivals_per_second);
  return [
    ["Waiting", exact(status.waiting), isNumber(status.waiting) && status.waiting > 0 ? `oldest ${age(status.oldest_waiting_seconds)}` : ""],
    ["In flight", exact(status.in_flight), ""],
    ["Parked", exact(status.parked), isNumber(next) ? (next <= 0 ? "next one due now" : `next one in ${duration(Math.ceil(next))}`) : ""],
    ["Scheduled", exact(status.scheduled), ""],
    ["Dead letters", exact(status.dead), ""],
    ["Arrivals", rate(status.arrivals_per_second), note],
    ["Completions", rate(status.completions_per_second), note],
    ["Time to empty", status.seconds_to_empty === 0 ? "empty" : duration(status.seconds_to_empty), doesNotShrink ? "it does not shrink" : ""],
    ["Workers alive", exact(status.consumers_alive), releases(report)],
    ["Processing", milliseconds(report.latency?.p95_ms), report.latency ? `p95; p50 ${milliseconds(report.latency.p50_ms)}, p99 ${milliseconds(report.latency.p99_ms)}` : ""],
    ["Wait in the queue", milliseconds(report.queue_wait?.p95_ms), report.queue_wait ? `p95; p50 ${milliseconds(report.queue_wait.p50_ms)}, p99 ${milliseconds(report.queue_wait.p99_ms)}` : ""],
  ];
}

function releases({ releases: of }) {
  const known = Object.entries(of ?? {}).filter(([name]) => name);
  return known.length > 1 ? known.map(([name, number]) => `${number} × ${name}`).join(", ") : known.map(([name]) => name).join("");
}

/** Live workers with their reports, then those that have vanished within the hour. */
function workers(status, report, lag) {
  const states = new Map(rowsOf(status.consumers).map((consumer) => [consumer.name, consumer]));
  const live = aged(rowsOf(report.workers), "started_seconds", lag).map((worker) => {
    const seen = states.get(worker.name);
    const isSilent = seen?.state === "silent";
    const why = isSilent ? `no heartbeat for ${age(seen.last_heartbeat_seconds)}` : [worker.paused ?? []].flat().map(textOf).join("; ");
    return { ...worker, state: isSilent ? "silent" : textOf(worker.state), note: why };
  });
  const gone = aged(rowsOf(report.vanished), "seconds_ago", lag).map((worker) => ({
    ...worker,
    state: "gone",
    note: `for ${age(worker.seconds_ago)}${isNumber(worker.pending) ? `; it held ${plural(worker.pending, "message")}` : ""}`,
  }));
  return [...live.filter(({ state }) => state === "silent"), ...live.filter(({ state }) => state !== "silent"), ...gone];
}

/** The views of a group, each with its data and how old they are. */
function groupsOf(views, elapsed) {
  return Object.entries(views)
    .filter(([, { data }]) => isRow(data?.status))
    .map(([name, { data, age_seconds: old, problem }]) => ({ name, data, lag: problem ? 0 : (old ?? 0) + elapsed, problem }));
}

function makeGroup() {
  const node = document.createElement("div");
  node.className = "group";
  const card = make(node, "section", { class: "card group-status" });
  const line = make(card, "div", { class: "line" });
  const title = make(line, "h2");
  const note = make(line, "p", { class: "muted note" });
  const paused = make(card, "p", { class: "warn pause" });
  const problems = make(card, "ul", { class: "problems", "aria-label": "Problems of the group" });
  const numbers = make(card, "dl", { class: "tiles" });
  const time = make(node, "section", { class: "card events" });
  make(make(time, "div", { class: "line" }), "h2", {}, "Workers and events of the last hour");
  const timeline = new Timeline(make(time, "div"));
  const list = make(time, "ol", { class: "event-list", "aria-label": "Events of the group, the newest first" });
  const more = make(time, "button", { type: "button", class: "quiet more" });
  const quiet = make(time, "p", { class: "muted" });
  const team = make(node, "section", { class: "card workers" });
  const teamLine = make(team, "div", { class: "line" });
  make(teamLine, "h2", {}, "Workers");
  const teamNote = make(teamLine, "p", { class: "muted note" });
  const showWorkers = table(team, "Workers of the group", WORKERS, (worker) => `${worker.name} ${worker.state === "gone" ? worker.pid : ""}`);
  const work = make(node, "section", { class: "card group-jobs" });
  const workLine = make(work, "div", { class: "line" });
  make(workLine, "h2", {}, "Jobs of the group");
  const workNote = make(workLine, "p", { class: "muted note" });
  const showJobs = table(work, "Jobs of the group", JOBS, (job) => `${job.message_id} ${job.worker}`);
  let isWhole = false;
  let latest = null;
  more.addEventListener("click", () => { isWhole = !isWhole; node.show(...latest); });

  node.show = (data, lag, problem) => {
    latest = [data, lag, problem];
    const { status } = data;
    const report = isRow(data.report) ? data.report : {};
    attempt(card, "status", () => {
      setParts(title, [`Group ${textOf(status.group)} of ${textOf(status.stream)} `, badge(textOf(status.health))]);
      setText(note, [problem ? `As of ${age(lag)} ago: the view ${problem}.` : "", ...[report.reasons ?? []].flat().map((text) => `${capital(text)}.`)].join(" "));
      showPause(paused, status.paused, lag);
      showProblems(problems, status);
      updateChildren(numbers, tiles(status, report), ([label]) => label, makeTile, showTile);
    });
    attempt(time, "list", () => {
      const events = aged(rowsOf(report.events), "seconds_ago", lag);
      timeline.draw(report.alive, events.filter((event) => event.seconds_ago < HOUR));
      showEvents(list, isWhole ? events : events.slice(0, FEW_EVENTS));
      quiet.hidden = events.length > 0;
      setText(quiet, "No event was recorded.");
      more.hidden = events.length <= FEW_EVENTS;
      setText(more, isWhole ? `Show the newest ${FEW_EVENTS}` : `Show all ${events.length}`);
    });
    attempt(team, "table", () => {
      const rows = workers(status, report, lag);
      team.hidden = rows.length === 0;
      const [gone, silent] = ["gone", "silent"].map((state) => rows.filter((row) => row.state === state).length);
      setText(teamNote, [
        `${rows.length - gone - silent} alive`, ...(silent ? [`${silent} silent`] : []), ...(gone ? [`${gone} vanished within the hour`] : []),
      ].join(" · "));
      showWorkers(rows);
    });
    attempt(work, "table", () => {
      const jobs = aged(rowsOf(report.jobs), "seconds", lag);
      work.hidden = jobs.length === 0;
      setText(workNote, isNumber(report.jobs_total) && report.jobs_total > jobs.length
        ? `the ${jobs.length} longest of ${exact(report.jobs_total)}` : exact(jobs.length));
      showJobs(jobs);
    });
  };
  return node;
}

function makeTile() {
  const tile = document.createElement("div");
  make(tile, "dt");
  make(tile, "dd");
  make(tile, "dd", { class: "muted small" });
  return tile;
}

function showTile(tile, [label, value, note]) {
  setText(tile.children[0], label);
  setText(tile.children[1], value);
  setText(tile.children[2], note);
}

function showPause(node, paused, lag) {
  node.hidden = !isRow(paused);
  if (node.hidden) return;
  const since = isNumber(paused.seconds) ? ` for ${age(paused.seconds + lag)}` : "";
  setText(node, `Paused${since} by ${textOf(paused.by)}${paused.reason ? `: ${paused.reason}` : ""}. No worker takes messages.`);
}

function showProblems(list, status) {
  const problems = rowsOf(status.problems);
  list.hidden = problems.length === 0;
  updateChildren(list, problems, (problem) => `${problem.name} ${withoutNumbers(problem.text)}`, () => {
    const item = document.createElement("li");
    make(item, "p");
    make(item, "p", { class: "remedy" });
    return item;
  }, (item, problem) => {
    setParts(item.children[0], [badge(textOf(problem.health)), ` ${capital(textOf(problem.text))}.`]);
    setParts(item.children[1], problem.remedy ? [{ tag: "strong", text: "What to do: " }, `${problem.remedy}.`] : []);
  });
}

/** A text without its numbers, which change while the problem stays the same. */
const withoutNumbers = (text) => String(text).replace(/\d[\d.]*/g, "#");

function showEvents(list, events) {
  updateChildren(list, events, (event) => event.id, () => {
    const item = document.createElement("li");
    make(item, "time");
    make(item, "span");
    make(item, "span", { class: "what" });
    return item;
  }, (item, event) => {
    setText(item.children[0], isNumber(event.time) ? clock(event.time) : "–");
    setParts(item.children[1], badge(textOf(event.kind).replaceAll("_", " "), EVENT_TONES[event.kind] ?? ""));
    setText(item.children[2], `${textOf(event.text)}${event.who ? ` (${event.who})` : ""}`);
  });
}

/** Draw the groups of all views, which were answered `elapsed` seconds ago. */
export function renderGroups(views, elapsed) {
  const groups = groupsOf(views, elapsed);
  $("groups").hidden = groups.length === 0;
  updateChildren($("groups"), groups, ({ name }) => name, makeGroup, (node, { data, lag, problem }) => node.show(data, lag, problem));
}
