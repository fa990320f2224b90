// The page of HealthServer: asks /api/state every 2 s and /api/history for what is new, and draws both.
//
// Everything that comes from the server reaches the page through textContent, never as markup: a
// message id or an error's text is whatever somebody published.

import { choose, drawCharts, isChosen, makeCharts } from "./charts.js";
import { $, SVG, TONES, attempt, badge, each, fill, make, say, table, words } from "./document.js";
import { age, asText, capital, clock, count, duration, exact, formatOf, isNumber, megabytes, milliseconds, percent, rate } from "./figures.js";
import { append, history, rates } from "./history.js";
import { makeSections, queues, renderSections } from "./queue.js";

const POLL_SECONDS = 2;
const POLL_MAX_SECONDS = 15;
const STALE_SECONDS = 10; // a state older than that is called so, whatever kept the next one away
const ANSWER_SECONDS = 8; // a worker that holds the interpreter lock answers late, or not at all

/** Seconds until the next attempt after so many failures in a row; `chance` is from 0 to 1. */
function backoff(failures, chance) {
  // Jitter, or all pages that watched a worker return to it at the same moment.
  return Math.min(POLL_MAX_SECONDS, POLL_SECONDS * 1.6 ** Math.max(0, failures - 1) * (0.75 + 0.5 * chance));
}

/** What health data tell beside a status and its reasons, which have places of their own. */
const figuresOf = ({ status, reasons, ...figures }) => figures;

/** Every figure as [name, value, source]; what is a mapping (errors by type) comes apart. */
function flatten(state) {
  const rows = new Map();
  const add = (name, value, source) => {
    if (value !== null && typeof value === "object" && !Array.isArray(value)) {
      for (const [part, inner] of Object.entries(value)) add(`${name}.${part}`, inner, source);
      return;
    }
    const same = [...(rows.get(name) ?? [])].find((row) => Object.is(row.value, value));
    if (same) same.source += `, ${source}`;
    else rows.set(name, [...(rows.get(name) ?? []), { name, value, source }]);
  };
  for (const [source, figures] of Object.entries({ health: figuresOf(state.health), metrics: state.metrics }))
    for (const [name, value] of Object.entries(figures)) add(name, value, source);
  return [...rows.values()].flat().sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
}

// --- light and dark --------------------------------------------------------------------------------

const THEMES = ["system", "light", "dark"];

function showTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  say($("theme"), `Theme: ${theme}`);
}

/** localStorage, which a browser may refuse to a page. */
function stored(store, key, value) {
  try {
    if (value === undefined) return globalThis[store].getItem(key);
    globalThis[store].setItem(key, value);
  } catch { /* then it lasts until the page is left */ }
  return value ?? null;
}

// --- asking the worker -----------------------------------------------------------------------------

const page = {
  state: null, // the last answer, and when it came
  at: 0,
  historyAskedAt: -Infinity,
  historyProblem: "",
  failures: 0,
  problem: "",
  lostAt: 0, // when the first of the failures was
  nextAt: 0,
  asking: false,
  timer: 0,
  token: null,
  signedOut: false,
  known: new Map(), // what each view told last, and when
};
const now = () => performance.now() / 1000;

/** There was no answer, or one with another status than 200. */
class NoAnswer extends Error {
  constructor(why, status = null) {
    super(why);
    this.status = status;
  }
}

async function get(path) {
  const headers = { Accept: "application/json" };
  if (page.token) headers.Authorization = `Bearer ${page.token}`;
  let answer;
  try {
    answer = await fetch(path, { headers, cache: "no-store", signal: AbortSignal.timeout(ANSWER_SECONDS * 1000) });
  } catch (error) {
    throw new NoAnswer(error.name === "TimeoutError" ? `no answer within ${ANSWER_SECONDS} s` : "no connection");
  }
  if (!answer.ok) throw new NoAnswer(`it answers with HTTP status ${answer.status}`, answer.status);
  return answer.json();
}

async function getHistory(state) {
  const changed = history.run !== null && history.run !== state.run;
  if (!changed && now() - page.historyAskedAt < history.period * 0.8) return;
  page.historyAskedAt = now();
  const since = history.next;
  const answer = await get(since === null ? "api/history" : `api/history?since=${encodeURIComponent(since)}`);
  if (!append(answer)) append(await get("api/history"));
}

/** Give a view that fails now what it told last: of a Redis that is away one wants to know what it held. */
function remember(views) {
  for (const [name, view] of Object.entries(views)) {
    const last = page.known.get(name);
    if (view.data) page.known.set(name, { data: view.data, at: now() - (view.age_seconds ?? 0) });
    else if (view.problem && last) Object.assign(view, { data: last.data, age_seconds: now() - last.at });
  }
}

async function poll() {
  if (page.asking) return;
  clearTimeout(page.timer);
  page.asking = true;
  try {
    const state = await get("api/state");
    remember(state.views);
    Object.assign(page, { state, at: now(), failures: 0, problem: "", signedOut: false });
    try {
      await getHistory(state);
      page.historyProblem = "";
    } catch (error) {
      // The state came, so the worker is there; the next state tells if it went meanwhile.
      page.historyProblem = `History could not be read: ${why(error)}.`;
    }
  } catch (error) {
    if (error instanceof NoAnswer && error.status === 401) page.signedOut = true;
    else {
      if (page.failures === 0) page.lostAt = now();
      page.failures += 1;
      page.problem = why(error);
    }
  } finally {
    // Before anything is drawn, which may fail.
    page.asking = false;
    schedule(page.failures ? backoff(page.failures, Math.random()) : POLL_SECONDS);
  }
  render();
  draw();
}

const why = (error) => (error instanceof NoAnswer ? error.message : "its answer is not understood");

function schedule(seconds) {
  clearTimeout(page.timer);
  page.nextAt = now() + seconds;
  // Nobody looks at a hidden page, and views ask Redis; a page that waits for a token has no use either.
  if (!document.hidden && !page.signedOut) page.timer = setTimeout(poll, seconds * 1000);
}

function draw() {
  if (page.state) attempt($("charts"), "history", () => drawCharts(page.historyProblem));
}

// --- status ----------------------------------------------------------------------------------------

const SIGNS = { // shapes, because colours alone tell nothing to some
  healthy: "M12 2.5a9.5 9.5 0 1 0 .01 0z M7.5 12.4l3 3 6-6.4",
  degraded: "M12 3 22 20.5H2z M12 9.5v5 M12 17.2v.1",
  unhealthy: "M8 2.5h8l5.5 5.5v8L16 21.5H8L2.5 16V8z M8.5 8.5l7 7 M15.5 8.5l-7 7",
  unknown: "M12 2.5a9.5 9.5 0 1 0 .01 0z M8 12h8",
};
const ICON_COLOURS = { healthy: "#1f8a55", degraded: "#d08700", unhealthy: "#d03a2f", unknown: "#7d8797" };

/** How much older than when they were answered the data are; they do not age while nobody tells. */
const elapsed = () => (isGone() ? 0 : now() - page.at);

const isGone = () => page.failures > 0 || (page.state !== null && now() - page.at > STALE_SECONDS);

/** A text without the durations in it, which count on while nothing has changed. */
const still = (text) => String(text).replace(/\d[\d.]*(?= (s|min|h)\b)/g, "#");

/** Tell what has changed to those who hear the page; never what only counts on. */
function announce(text) {
  if (still($("announcer").textContent) !== still(text)) say($("announcer"), text);
}

/** Whether there is no check but a get_health_data that tells nothing. */
const isBare = ({ checks, health }) => checks.length === 1 && Object.keys(health).length === 0;

function renderStatus(state, gone) {
  const status = Object.hasOwn(SIGNS, state.status) ? state.status : "unknown";
  say($("instance"), words(state.instance_id));
  $("status").dataset.tone = gone ? "" : TONES[status] ?? "";
  $("status-sign").setAttribute("d", SIGNS[gone ? "unknown" : status]);
  say($("status-word"), gone ? `Last known: ${status}` : capital(status));
  const fine = status !== "healthy" ? "No reason was given."
    : isBare(state) ? "Nothing is checked: this tells only that the server answers."
      : "Everything that is checked is fine.";
  const reasons = state.reasons.length ? state.reasons : [fine];
  const item = () => document.createElement("li");
  each($("reasons"), reasons, still, item, (node, reason) => say(node, String(reason)));
  renderProbes(state, gone);
  const health = state.checks.find((check) => check.name === "get_health_data");
  const lost = clock(Date.now() / 1000 - (now() - page.at));
  say($("age"), gone ? `Data of ${lost}` : `Data ${age((health?.age_seconds ?? 0) + elapsed())} old`);
  say($("queues"), queues(state.views));
  const told = gone ? "no answer" : status;
  document.title = `${capital(told)}: ${words(state.instance_id)}`;
  showIcon(gone ? "unknown" : status);
}

function renderProbes(state, gone) {
  const probes = [["Live", state.live], ["Ready", state.ready], ["Started", state.started]];
  const create = ([name]) => {
    const box = document.createElement("div");
    make(box, "dt", {}, name);
    make(box, "dd");
    return box;
  };
  each($("probes"), probes, ([name]) => name, create, (box, [, value]) => {
    const [text, tone] = value === false ? ["✕ no", "bad"] : value === true ? ["✓ yes", "good"] : ["unknown", ""];
    fill(box.lastChild, { text, class: gone ? "" : tone });
  });
}

function showIcon(status) {
  const line = `fill="none" stroke="${ICON_COLOURS[status]}" stroke-width="3"`;
  const icon = `<svg xmlns="${SVG}" viewBox="0 0 24 24"><path d="${SIGNS[status]}" ${line}/></svg>`;
  const address = `data:image/svg+xml,${encodeURIComponent(icon)}`;
  if ($("icon").href !== address) $("icon").href = address;
}

function renderGone(gone) {
  $("gone").hidden = !gone;
  $("page").classList.toggle("stale", gone);
  if (!gone) return;
  const ago = now() - (page.state ? page.at : page.lostAt);
  const since = clock(Date.now() / 1000 - ago);
  const seen = page.state ? `Last answer at ${since}, ${duration(Math.floor(ago) || 1)} ago` : `Asked first at ${since}`;
  say($("gone-since"), `${seen}: ${problem()}.${page.state ? " What is below was true then." : ""}`);
  const left = Math.ceil(page.nextAt - now());
  say($("gone-next"), page.asking || left <= 0 ? "Asking now …" : `Next attempt in ${left} s (attempt ${page.failures + 1}).`);
}

const problem = () => page.problem || "the next one has not come";

function render() {
  const gone = isGone();
  $("sign-in").hidden = !page.signedOut;
  // A link brings no token, so it would only be refused.
  for (const link of document.querySelectorAll("a.guarded")) link.hidden = page.signedOut || page.token !== null;
  $("first").hidden = Boolean(page.state) || gone || page.signedOut;
  $("page").hidden = !page.state || page.signedOut;
  renderGone(gone && !page.signedOut);
  if (page.signedOut) {
    say($("token-problem"), page.token ? "The server does not accept this token." : "");
    announce("This server asks for a token.");
    return;
  }
  if (gone) announce(`The worker does not answer: ${problem()}.`);
  if (!page.state) return;
  attempt($("status"), "status", () => {
    if (!gone) announce(`Status: ${page.state.status}. ${page.state.reasons.join("; ")}`);
    renderStatus(page.state, gone);
  });
  attempt($("sections"), "answer", () => renderSections(page.state.views, elapsed()));
  attempt($("checks"), "table", () => renderChecks(page.state));
  attempt($("figures"), "table", () => renderFigures(page.state));
}

// --- checks ----------------------------------------------------------------------------------------

const CHECKS = [
  { label: "Check", bare: true, cell: (check) => words(check.name) },
  { label: "Status", bare: true, cell: (check) => badge(isFirst(check) ? "first run" : words(check.status)) },
  { label: "Critical", bare: true, cell: (check) => (check.critical ? "critical" : "not critical") },
  { label: "Probes", cell: (check) => (check.probes ?? []).join(", ") || "–" },
  { label: "Age", number: true, cell: (check) => (isNumber(check.age_seconds) ? age(check.age_seconds + elapsed()) : "–") },
  { label: "Says", wide: true, cell: says },
];

/** Whether it has not answered so far, and may still take its time. */
function isFirst({ age_seconds: old, running_seconds: running, timeout_seconds: limit }) {
  return !isNumber(old) && isNumber(running) && running + elapsed() <= limit;
}

function says(check) {
  const told = [];
  if (check.reasons.length) told.push(`${check.reasons.join("; ")} `);
  const running = isNumber(check.running_seconds) ? check.running_seconds + elapsed() : 0;
  const late = running > check.timeout_seconds;
  if (late || isFirst(check)) told.push({ text: `Running for ${age(running)}. `, class: late ? "problem" : "muted" });
  // What get_health_data tells is among all figures; those of a check are few and only here.
  const figures = check.name === "get_health_data" ? [] : Object.entries(figuresOf(check.figures));
  const written = figures.map(([name, value]) => `${name} ${isNumber(value) ? formatOf(name)(value) : asText(value)}`);
  if (written.length) told.push({ text: written.join(" · "), class: "muted" });
  const failure = page.state.failures?.[check.name];
  if (failure) told.push({ tag: "code", text: failure, class: "failure" });
  return told.length ? told : "–";
}

const rank = { unhealthy: 0, degraded: 1 };

function renderChecks(state) {
  const checks = [...state.checks].sort((a, b) => (rank[a.status] ?? 2) - (rank[b.status] ?? 2));
  const bad = checks.filter((check) => rank[check.status] !== undefined).length;
  say($("checks").querySelector(".note"), `${checks.length} · ${bad ? `${bad} not healthy` : "all healthy"}`);
  $("checks").fill(checks);
}

// --- all figures -----------------------------------------------------------------------------------

function renderFigures(state) {
  const all = flatten(state);
  const wanted = $("filter").value.trim().toLowerCase();
  const rows = all.filter(({ name }) => name.toLowerCase().includes(wanted));
  say($("figures-count"), all.length === 0 ? "None: neither get_health_data nor get_metrics_data tells any."
    : rows.length < all.length ? `${rows.length} of ${all.length}` : String(all.length));
  if (!$("figures").querySelector("details").open) return;
  each($("figure-rows"), rows, ({ name, source }) => `${name} ${source}`, (row) => {
    const line = document.createElement("tr");
    const cell = make(line, "td");
    make(cell, "button", { type: "button", class: "name" }, row.name).addEventListener("click", () => {
      choose(row.name);
      render();
    });
    make(line, "td", { class: "number" });
    make(line, "td", { class: "muted" });
    return line;
  }, (line, { name, value, source }) => {
    const button = line.firstChild.firstChild;
    button.disabled = !history.figures.has(name);
    button.setAttribute("aria-pressed", String(isChosen(name)));
    say(line.children[1], isNumber(value) ? exact(value) : asText(value));
    line.children[1].classList.toggle("text", !isNumber(value));
    say(line.children[2], source);
  });
}

// --- beginning -------------------------------------------------------------------------------------

function begin() {
  showTheme(THEMES.find((theme) => theme === stored("localStorage", "shared_sync.theme")) ?? "system");
  page.token = stored("sessionStorage", "shared_sync.token");
  $("theme").addEventListener("click", () => {
    const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "system") + 1) % THEMES.length];
    stored("localStorage", "shared_sync.theme", theme);
    showTheme(theme);
  });
  $("try-now").addEventListener("click", () => { poll(); render(); });
  $("sign-in-form").addEventListener("submit", (event) => {
    event.preventDefault();
    page.token = stored("sessionStorage", "shared_sync.token", $("token").value);
    $("token").value = "";
    poll();
  });
  makeCharts(draw);
  makeSections();
  $("checks").fill = table($("checks").querySelector(".body"), "Checks", CHECKS, (check) => check.name);
  const figures = make(make($("figures").querySelector(".body"), "div", { class: "scroll" }), "table", { "aria-label": "All figures" });
  const head = make(make(figures, "thead"), "tr");
  for (const label of ["Figure", "Value", "From"]) make(head, "th", { scope: "col", class: label === "Value" ? "number" : "" }, label);
  make(figures, "tbody", { id: "figure-rows" });
  $("filter").addEventListener("input", render);
  $("figures").querySelector("details").addEventListener("toggle", render);
  document.addEventListener("visibilitychange", () => (document.hidden || page.signedOut ? clearTimeout(page.timer) : poll()));
  // Ages and countdowns go on between two answers.
  setInterval(() => { if (!document.hidden) render(); }, 1000);
  poll();
}

begin();

// For the tests, and for whoever looks into a page that behaves oddly.
globalThis.dashboard = {
  page, history, poll, backoff, rates, formatOf, count, duration, megabytes, milliseconds, percent, rate,
};
