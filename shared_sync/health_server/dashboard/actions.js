// Asking the server to act: POST /actions/…, and how a large action goes on step by step.

import { capital } from "./format.js";
import { page } from "./polling.js";

const ANSWER_SECONDS = 20; // the server gives up earlier, and says what is known then
const MOST_IDS = 1000; // in one request
const DOUBT = "It may have been carried out all the same: look before you try again.";

/** An action was refused or failed, or nobody knows what became of it. */
export class ActionFailed extends Error {}

let onSignedOut = () => {};

/** Call a function when the server does not accept the token any more. */
export function whenSignedOut(callback) {
  onSignedOut = callback;
}

/** The stream and group on which the server lets the page act; null if it may only look. */
export const actsOn = () => page.state?.actions ?? null;

/** The tables of that group, as some view has them; undefined without such a view. */
export function viewOfGroup() {
  const { stream, group } = actsOn();
  return Object.values(page.state.views).map(({ data }) => data)
    .find((data) => data?.stream === stream && data.group === group && (data.status ?? data.dead_letters) !== undefined);
}

/** Have the server carry out an action, and return its answer. Throws `ActionFailed`. */
export async function act(name, body) {
  const headers = { Accept: "application/json", "Content-Type": "application/json" };
  if (page.token) headers.Authorization = `Bearer ${page.token}`;
  const signal = AbortSignal.timeout(ANSWER_SECONDS * 1000);
  let answer;
  try {
    answer = await fetch(`actions/${name}`, { method: "POST", headers, body: JSON.stringify(body), cache: "no-store", signal });
  } catch (error) {
    const why = error.name === "TimeoutError" ? `There was no answer within ${ANSWER_SECONDS} s.` : "There is no connection to the server.";
    throw new ActionFailed("by" in body ? `${why} ${DOUBT}` : why);
  }
  const said = await answer.json().catch(() => ({}));
  if (answer.ok) return said;
  if (answer.status === 401) {
    page.signedOut = true;
    onSignedOut();
  }
  throw new ActionFailed(said.error ? `${capital(said.error)}.` : `The server answers with HTTP status ${answer.status}.`);
}

/**
 * Replay or purge dead letters in steps, and return what was done as a sentence.
 *
 * `selection` is {ids}, or {where, most, up_to}. `task.say(text)` shows how far it is, and `task.isStopped()` says
 * whether to begin no further step.
 */
export async function actOnLetters(name, selection, by, task) {
  const verb = `${name}${name.endsWith("e") ? "d" : "ed"}`;
  const total = selection.ids?.length ?? selection.most;
  const counted = { done: 0, missing: 0 };
  const sentence = () => `${counted.done} of ${total} dead letters ${counted.done === 1 ? "was" : "were"} ${verb}.`
    + (counted.missing ? ` ${counted.missing} had gone already.` : "");
  let ids = selection.ids ?? [];
  let after = "";
  try {
    for (;;) {
      task.say(sentence());
      const chosen = selection.ids ? { ids: ids.slice(0, MOST_IDS) }
        : { ...selection, most: total - counted.done - counted.missing, after };
      const answer = await act(name, { by, ...chosen });
      counted.done += answer.done;
      counted.missing += answer.missing;
      if (answer.stopped) throw new ActionFailed(`${capital(answer.stopped)}.`);
      after = answer.next;
      if (selection.ids) ids = ids.slice(after === null ? MOST_IDS : ids.indexOf(after) + 1);
      const isOver = selection.ids ? ids.length === 0 : after === null || counted.done + counted.missing >= total;
      if (isOver) return sentence();
      if (task.isStopped()) return `Stopped. ${sentence()}`;
    }
  } catch (error) {
    if (!(error instanceof ActionFailed) || counted.done + counted.missing === 0) throw error;
    throw new ActionFailed(`${error.message} Before that, ${sentence()}`);
  }
}
