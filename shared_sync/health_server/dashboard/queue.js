// The tables of views: jobs, readers, batches and circuit breakers of a worker; consumers, parked messages, dead
// letters of a group.

import {
  $, TONES, attempt, badge, code, make, notUnderstood, oneWord, setParts, setText, table, textOf, updateChildren,
} from "./dom.js";
import { actsOn } from "./actions.js";
import { causes, countCauses, drawLetters } from "./dead_letters.js";
import { age, capital, duration, exact, isNumber, milliseconds } from "./format.js";
import { aged, isRow } from "./rows.js";

const OLD_SECONDS = 10; // older tables are not shown as current ones
const explain = (problem) => (problem === "failed" ? "failed, and the worker's log says why" : problem);

/** The tables of a section, one for each view that has it: several if a program has several consumers. */
function tables(views, { key, rows, more }, elapsed) {
  return Object.entries(views)
    .filter(([, { data }]) => data && data[key] !== undefined && data[key] !== null)
    .filter(([, { data }]) => key !== "dead_letters" || !isActedOn(data))
    .map(([name, { data, age_seconds: old, problem }]) => {
      const since = (old ?? 0) + elapsed;
      // The page was not open for a while, and the new tables are not there yet.
      const why = problem ? `the view ${explain(problem)}` : old > OLD_SECONDS ? "new ones are on their way" : "";
      // A job in old tables may have ended long ago, so its age must not grow.
      const lag = why ? 0 : since;
      // A view may return anything: without a list of rows it is not understood.
      if (!Array.isArray(data[key]) || !data[key].every(isRow)) return { name, data, why, age: since };
      const all = data[`${key}_total`];
      const total = isNumber(all) ? all + (key === "consumers" ? goneOf(data).length : 0) : rows(data, lag).length;
      return { name, data, why, age: since, rows: rows(data, lag), more: more?.(data, lag), total };
    });
}

/** Whether the dead letters of a view are where one can act on them. */
const isActedOn = ({ stream, group }) => actsOn() !== null && actsOn().stream === stream && actsOn().group === group;

/** The consumers that died within the last hour and are not in the group any more. */
const goneOf = ({ consumers_gone: gone }) => (Array.isArray(gone) && gone.every(isRow) ? gone : []);

const budgeted = (job) => job.budget_seconds !== null && job.budget_seconds !== undefined;

const JOBS = [
  { label: "State", bare: true, cell: (job) => badge(job.state) },
  { label: "Message", bare: true, cell: (job) => code(job.message_id) },
  { label: "Reader", bare: true, cell: (job) => oneWord(job.reader) },
  { label: "Attempt", number: true, cell: (job) => textOf(job.attempt) },
  { label: "Age", number: true, cell: (job) => [
    age(job.age_seconds),
    ...(budgeted(job) ? [{ share: job.age_seconds / job.budget_seconds, class: TONES[job.state] }] : []),
  ] },
  { label: "Budget", number: true, cell: (job) => (budgeted(job) ? duration(job.budget_seconds) : "none") },
];
const BREAKERS = [
  { label: "State", bare: true, cell: ({ state }) => badge(state, { closed: "good", "half-open": "warn" }[state] ?? "bad") },
  { label: "Circuit breaker", bare: true, cell: (breaker) => code(breaker.name) },
  { label: "Next trial", number: true, cell: ({ state, trial_in_seconds: left }) => (
    state === "closed" ? "–" : left <= 0 ? "due now" : `in ${duration(Math.ceil(left))}`) },
  { label: "Failures in a row", number: true, cell: (breaker) => exact(breaker.failures) },
  { label: "Openings", number: true, cell: (breaker) => exact(breaker.openings) },
  { label: "Refused calls", number: true, cell: (breaker) => exact(breaker.refused) },
];
const BATCHES = [
  { label: "Reader", bare: true, cell: (batches) => oneWord(batches.reader) },
  { label: "Runs", number: true, cell: (batches) => exact(batches.runs) },
  { label: "Extra runs", number: true, cell: (batches) => exact(batches.extra_runs) },
  { label: "Mean size", number: true, cell: (batches) => exact(batches.mean_size) },
  { label: "At most", number: true, cell: (batches) => exact(batches.ceiling) },
  { label: "A run takes", number: true, cell: (batches) => milliseconds(batches.base_ms) },
  { label: "Each message", number: true, cell: ({ message_ms: each }) => (isNumber(each) ? `+ ${milliseconds(each)}` : "–") },
];

function heartbeat({ present, gone_seconds: gone, silent_seconds: silent }) {
  if (isNumber(silent)) return [badge("silent", "bad"), ` for ${age(silent)}`];
  if (present === true) return badge("alive", "good");
  if (present !== false) return badge("no heartbeat", "warn");
  return [badge("gone", "bad"), ...(isNumber(gone) ? [` for ${duration(gone < 60 ? Math.floor(gone) : gone - (gone % 60))}`] : [])];
}

/** The consumers of a group, with the seconds since the last heartbeat of those that are silent though their lease runs. */
function withSilence({ consumers, status }) {
  const seen = Array.isArray(status?.consumers) ? status.consumers.filter(isRow) : [];
  const silent = new Map(seen.filter(({ state }) => state === "silent").map((one) => [one.name, one.last_heartbeat_seconds]));
  return consumers.map((consumer) => ({ ...consumer, silent_seconds: silent.get(consumer.name) }));
}

const CONSUMERS = [
  { label: "Consumer", bare: true, cell: (consumer) => code(consumer.name) },
  { label: "Heartbeat", bare: true, cell: heartbeat },
  { label: "Lease left", number: true, cell: ({ present, lease_seconds_left: left }) => (
    present === false ? "–" : duration(left && Math.max(0, Math.round(left)))) },
  { label: "Pending", number: true, cell: (consumer) => exact(consumer.pending) },
  { label: "Idle", number: true, cell: (consumer) => age(consumer.idle_seconds) },
  { label: "Runs on", cell: ({ host, pid }) => (host || pid
    ? [oneWord(host), " ", oneWord(pid && `pid ${pid}`)] : "–") },
];
const PARKED = [
  { label: "Message", bare: true, cell: (message) => code(message.message_id) },
  { label: "Next attempt", number: true, cell: ({ due_in_seconds: left }) => (
    left <= 0 ? "due now" : `in ${duration(Math.ceil(left))}`) },
  { label: "Failures", number: true, cell: (message) => textOf(message.failures) },
  { label: "Crashes", number: true, cell: (message) => textOf(message.crashes) },
  { label: "Last error", wide: true, cell: (message) => [message.error_type, message.details].filter(Boolean).join(": ") || "–" },
];
function drawReaders(parent) {
  const list = make(parent, "ul", { class: "readers" });
  const create = () => {
    const item = document.createElement("li");
    for (let i = 0; i < 3; i += 1) make(item, "span");
    return item;
  };
  return (readers) => updateChildren(list, readers, (reader) => reader.name, create, (item, reader) => {
    setText(item.children[0], textOf(reader.name));
    setParts(item.children[1], badge(textOf(reader.state)));
    setText(item.children[2], age(reader.seconds));
  });
}

/** The readers that do not work as they should, then the others. */
function abnormalFirst(readers) {
  const isFine = ({ state }) => state === "waiting" || state === "running";
  return [...readers.filter((reader) => !isFine(reader)), ...readers.filter(isFine)];
}

/** Counts of the rows in these states, such as "1 late", "2 stuck". */
function countStates(rows, ...states) {
  return states.map((state) => [rows.filter((row) => row.state === state).length, state])
    .filter(([number]) => number).map(([number, state]) => `${number} ${state}`);
}

const SECTIONS = [
  {
    key: "jobs", pair: 0, title: "Jobs in flight", empty: "No job is running.",
    hint: "Jobs and readers are on the worker's own page, if HealthServer was given the consumer's get_health_data, or its get_views() by add_view.",
    draw: (parent) => table(parent, "Jobs in flight", JOBS, (job) => `${job.reader} ${job.message_id}`),
    rows: (data, lag) => aged(data.jobs, "age_seconds", lag).sort((a, b) => b.age_seconds - a.age_seconds),
    note: (rows) => countStates(rows, "late", "stuck"),
  },
  {
    key: "readers", pair: 0, title: "Readers", empty: "No reader: the consumer has not been started.",
    draw: drawReaders,
    rows: (data, lag) => abnormalFirst(aged(data.readers, "seconds", lag)),
    note: (rows) => countStates(rows, "loading", "paused", "late", "stuck", "stalled", "ended"),
  },
  {
    key: "batches", pair: 1, title: "Batches", empty: "No reader has begun.",
    draw: (parent) => table(parent, "Batches", BATCHES, (batches) => batches.reader),
    rows: (data) => data.batches,
    note: () => [],
  },
  {
    key: "circuit_breakers", pair: 1, title: "Circuit breakers", empty: "No circuit breaker.",
    draw: (parent) => table(parent, "Circuit breakers", BREAKERS, (breaker) => breaker.name),
    rows: (data, lag) => aged(data.circuit_breakers, "trial_in_seconds", -lag),
    note: (rows) => countStates(rows, "open", "half-open"),
  },
  {
    key: "consumers", pair: 2, title: "Consumers of the group", empty: "No consumer: no worker has joined this group so far.",
    hint: "Consumers, parked messages and dead letters are on a worker's page, or on that of shared-sync health serve --stream … --group ….",
    draw: (parent) => table(parent, "Consumers of the group", CONSUMERS, (consumer) => consumer.name),
    // Consumers that are not in the group any more come last; one that was killed is shown for an hour.
    rows: (data, lag) => ["idle_seconds", "gone_seconds", "silent_seconds"].reduce((rows, field) => aged(rows, field, lag),
      aged([...withSilence(data), ...goneOf(data)], "lease_seconds_left", -lag)),
    note: (rows) => countStates(rows.map(({ present }) => ({ state: present === false ? "gone" : "" })), "gone"),
  },
  {
    key: "parked", pair: 2, title: "Parked messages", empty: "No message is parked: none waits for another attempt.",
    draw: (parent) => table(parent, "Parked messages", PARKED, (message) => message.message_id),
    rows: (data, lag) => aged(data.parked, "due_in_seconds", -lag).sort((a, b) => a.due_in_seconds - b.due_in_seconds),
    note: () => [],
  },
  {
    key: "dead_letters", cut: false, pair: 3, title: "Dead letters", empty: "No dead letters: nothing was given up on.",
    draw: drawLetters,
    rows: (data) => data.dead_letters,
    more: causes,
    note: (rows, shown) => (rows.length ? [countCauses(shown)] : []),
  },
];
const FEW = 10; // rows that a long table shows at first
const NO_QUEUE = "No queue is shown. A program that only publishes has none of its own. In a worker, give HealthServer "
  + "consumer=…; or, if it has a get_health_data of its own, call server.add_view(name, function) for each of "
  + "consumer.get_views().items(). From outside, run shared-sync health serve --stream … --group …";

export function makeSections() {
  const pairs = [0, 1, 2, 3].map(() => make($("sections"), "div", { class: "pair" }));
  for (const section of SECTIONS) {
    const names = { id: section.key, class: "card", "aria-labelledby": `${section.key}-title` };
    section.node = make(pairs[section.pair], "section", names);
    const line = make(section.node, "div", { class: "line" });
    make(line, "h2", { id: `${section.key}-title` }, section.title);
    section.noteNode = make(line, "p", { class: "muted note" });
    section.body = make(section.node, "div");
  }
  make($("sections"), "div", { id: "missing", class: "card muted" });
}

/** The name of the queue of a view: its stream and group, as far as the view has them. */
const queueOf = (data) => [data.stream, data.group].filter(Boolean).join(" · ");

/** The names of all queues, as one text. */
export function queues(views) {
  return [...new Set(Object.values(views).map(({ data }) => data && queueOf(data)).filter(Boolean))].join(", ");
}

/** Why tables are missing, one text each. */
function missing(views) {
  const all = Object.entries(views);
  const silent = all.filter(([, { data }]) => !data)
    .map(([name, { problem }]) => (problem ? `No data of ${name}: the view ${explain(problem)}.` : `Asking for ${name} …`));
  const several = queues(views).includes(", ");
  const reasons = all.flatMap(([, { data }]) => [data?.reasons ?? []].flat().map(
    (reason) => capital(`${several ? `${queueOf(data)}: ` : ""}${reason}.`)));
  if (silent.length || reasons.length) return [...silent, ...reasons];
  const absent = SECTIONS.filter((section) => tables(views, section, 0).length === 0);
  return absent.length === SECTIONS.length ? [NO_QUEUE] : absent.map(({ hint }) => hint).filter(Boolean);
}

/** Draw the tables of all views, which were answered `elapsed` seconds ago. */
export function renderSections(views, elapsed) {
  for (const section of SECTIONS) attempt(section.node, "table", () => renderSection(section, views, elapsed));
  for (const pair of $("sections").querySelectorAll(".pair")) pair.hidden = [...pair.children].every((node) => node.hidden);
  const lines = missing(views);
  $("missing").hidden = lines.length === 0;
  updateChildren($("missing"), lines, (text) => text, () => document.createElement("p"), setText);
}

function renderSection(section, views, elapsed) {
  const shown = tables(views, section, elapsed);
  section.node.hidden = shown.length === 0;
  const understood = shown.filter(({ rows }) => rows);
  const all = understood.flatMap(({ rows }) => rows);
  const total = understood.reduce((sum, one) => sum + one.total, 0);
  const number = total > all.length ? `${all.length} of ${exact(total)} shown` : exact(total);
  setText(section.noteNode, understood.length ? [number, ...section.note(all, understood)].join(" · ") : "");
  const update = (node, one) => updateView(section, node, one, shown.length > 1);
  updateChildren(section.body, shown, ({ name }) => name, () => makeView(section), update);
}

function makeView(section) {
  const node = document.createElement("div");
  node.className = "sub";
  make(node, "h3", { class: "of" });
  make(node, "p", { class: "outdated warn" });
  make(node, "p", { class: "muted" });
  node.showRows = section.draw(node);
  const more = make(node, "button", { type: "button", class: "quiet more" });
  more.addEventListener("click", () => {
    node.isWhole = !node.isWhole;
    node.refresh();
  });
  return node;
}

function updateView(section, node, { name, data, why, age: old, rows: known, more: details, total }, several) {
  const [of, outdated, empty, list, more] = node.children;
  of.hidden = !several;
  setText(of, queueOf(data) || name);
  outdated.hidden = !why;
  setText(outdated, why ? `As of ${age(old)} ago: ${why}.` : "");
  const rows = known ?? [];
  empty.hidden = rows.length > 0;
  empty.className = known ? "muted" : "problem";
  setText(empty, !known ? notUnderstood("table") : total > 0 ? `None of the ${exact(total)} is shown.` : section.empty);
  list.hidden = rows.length === 0;
  node.refresh = () => {
    const few = section.cut === false || rows.length <= FEW + 2; // a button is not worth it for one or two rows
    more.hidden = few;
    setText(more, node.isWhole ? `Show the first ${FEW}` : `Show all ${rows.length}`);
    node.showRows(few || node.isWhole ? rows : rows.slice(0, FEW), details ?? []);
  };
  node.refresh();
}
