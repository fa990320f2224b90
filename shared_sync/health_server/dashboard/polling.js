// Requests /api/state every 2 s, and the new part of /api/history every few seconds.

import { append, history } from "./history.js";

const POLL_SECONDS = 2;
const POLL_MAX_SECONDS = 15;
const STALE_SECONDS = 10; // an older state is shown as the last known one, whatever the cause
const ANSWER_SECONDS = 8; // a worker that holds the interpreter lock answers late, or not at all

export const page = {
  state: null, // the last answer, and when it came
  at: 0,
  historyAskedAt: -Infinity,
  historyProblem: "",
  failures: 0, // in a row
  problem: "",
  lostAt: 0, // when the first of these failures was
  nextAt: 0,
  asking: false,
  timer: 0,
  token: null,
  signedOut: false,
  lastViews: new Map(), // the last data of each view, and when they came
};
export const now = () => performance.now() / 1000;

/** Whether the worker does not answer. */
export const isGone = () => page.failures > 0 || (page.state !== null && now() - page.at > STALE_SECONDS);

/** Seconds since the state was answered; 0 while the worker does not answer, so that ages stand still. */
export const elapsed = () => (isGone() ? 0 : now() - page.at);

/** Why the worker counts as gone. */
export const problem = () => page.problem || "no newer answer has arrived";

/** Seconds until the next attempt after so many failures in a row; `chance` is from 0 to 1. */
export function backoff(failures, chance) {
  // With jitter, so that pages that lost the same worker do not return to it at the same moment.
  return Math.min(POLL_MAX_SECONDS, POLL_SECONDS * 1.6 ** Math.max(0, failures - 1) * (0.75 + 0.5 * chance));
}

/** There was no answer, or one with another HTTP status than 200. */
class NoAnswer extends Error {
  constructor(reason, status = null) {
    super(reason);
    this.status = status;
  }
}

const reasonOf = (error) => (error instanceof NoAnswer ? error.message : "its answer is not understood");

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

/** Give a view that fails now its last data: they say what was in a Redis that is down. */
function keepLastData(views) {
  for (const [name, view] of Object.entries(views)) {
    const last = page.lastViews.get(name);
    if (view.data) page.lastViews.set(name, { data: view.data, at: now() - (view.age_seconds ?? 0) });
    else if (view.problem && last) Object.assign(view, { data: last.data, age_seconds: now() - last.at });
  }
}

let onAnswer = () => {};

/** Begin to poll, and call a function after each answer or failure. */
export function start(callback) {
  onAnswer = callback;
  document.addEventListener("visibilitychange", () => (
    document.hidden || page.signedOut ? clearTimeout(page.timer) : poll()));
  poll();
}

/** Request the state now, unless a request is under way. */
export async function poll() {
  if (page.asking) return;
  clearTimeout(page.timer);
  page.asking = true;
  try {
    const state = await get("api/state");
    keepLastData(state.views);
    Object.assign(page, { state, at: now(), failures: 0, problem: "", signedOut: false });
    try {
      await getHistory(state);
      page.historyProblem = "";
    } catch (error) {
      // The state came, so the worker is there; if it has gone meanwhile, the next request notices.
      page.historyProblem = `History could not be read: ${reasonOf(error)}.`;
    }
  } catch (error) {
    if (error instanceof NoAnswer && error.status === 401) page.signedOut = true;
    else {
      if (page.failures === 0) page.lostAt = now();
      page.failures += 1;
      page.problem = reasonOf(error);
    }
  } finally {
    // Before anything is drawn, because drawing may fail.
    page.asking = false;
    schedule(page.failures ? backoff(page.failures, Math.random()) : POLL_SECONDS);
  }
  onAnswer();
}

function schedule(seconds) {
  clearTimeout(page.timer);
  page.nextAt = now() + seconds;
  // Nobody reads a hidden page, and views ask Redis; a page without its token would only be refused.
  if (!document.hidden && !page.signedOut) page.timer = setTimeout(poll, seconds * 1000);
}
