// The panel of dead letters for whoever may act: counts of all causes, their letters, replay and purge.

import { ActionFailed, act, actsOn, viewOfGroup } from "./actions.js";
import { drawCauses } from "./dead_letters.js";
import { $, make, setText, textOf } from "./dom.js";
import { exact, plural } from "./format.js";
import { askAboutLetters, openLetter } from "./letter.js";
import { LetterList } from "./letter_list.js";
import { isGone, now } from "./polling.js";
import { aged } from "./rows.js";

const MOST_CAUSES = 1000; // more are not counted
const COUNT_SECONDS = 10; // between two countings, while letters come
const IDLE_SECONDS = 60; // the same while no view says that any came
const REST = 10; // counting takes at most one part in so many of the server's time

/** What was counted last, and what is being counted. */
const counted = { causes: [], number: 0, total: 0, at: -Infinity, isWhole: true, problem: "", isRunning: false, isOutdated: false, known: null, took: 0 };
let showCauses = () => {};

/** Make the empty panel. */
export function makeLetters() {
  const node = $("letters");
  const line = make(node, "div", { class: "line" });
  make(line, "h2", { id: "letters-title", tabindex: "-1" }, "Dead letters");
  make(line, "p", { id: "letters-note", class: "muted note" });
  make(node, "p", { id: "letters-result", role: "status" });
  make(node, "p", { id: "letters-problem", class: "problem", role: "alert" });
  make(node, "p", { id: "letters-empty", class: "muted" });
  showCauses = drawCauses(node, makeBody);
}

/** How many dead letters there are by the tables of the group; null if no view has that number. */
const totalInView = () => viewOfGroup()?.dead_letters_total ?? null;

/** Draw the panel, and count anew if letters came or went. */
export function renderLetters() {
  $("letters").hidden = actsOn() === null;
  if (actsOn() === null) return;
  const total = totalInView();
  const since = now() - counted.at;
  const pause = total !== null && total !== counted.known ? COUNT_SECONDS : IDLE_SECONDS;
  const isDue = counted.isOutdated || since >= Math.max(pause, REST * counted.took);
  if (isDue && !counted.isRunning && !isGone()) count(total);
  draw();
}

function draw() {
  const { causes, number, total, isWhole, problem } = counted;
  const some = isWhole && number >= total ? "" : ` of the oldest ${exact(number)}`;
  setText($("letters-note"), counted.at === -Infinity ? "" : `${exact(total)} · ${plural(causes.length, "cause")}${some}`);
  setText($("letters-problem"), problem);
  $("letters-empty").hidden = causes.length > 0 || problem !== "";
  if (counted.at > -Infinity) setText($("letters-empty"), "No dead letters: nothing was given up on.");
  showCauses(aged(causes, "seconds_ago", Math.max(0, now() - counted.at)));
}

/** Count the causes of all letters, step by step; what was counted before is shown until the end. */
async function count(known) {
  Object.assign(counted, { isRunning: true, isOutdated: false });
  const began = now();
  const causes = new Map();
  let [number, total, after] = [0, 0, ""];
  try {
    while (after !== null && causes.size < MOST_CAUSES) {
      const answer = await act("causes", { after });
      for (const cause of answer.causes) causes.set(cause.fingerprint, merge(causes.get(cause.fingerprint), cause));
      number += answer.counted;
      [total, after] = [answer.total, answer.next];
      if (counted.at === -Infinity) setText($("letters-empty"), `Counting: ${exact(number)} of ${exact(total)} …`);
    }
    const sorted = [...causes.values()].sort((a, b) => a.seconds_ago - b.seconds_ago);
    Object.assign(counted, { causes: sorted, number, total, isWhole: after === null, problem: "", known });
  } catch (error) {
    if (!(error instanceof ActionFailed)) throw error;
    counted.problem = `Dead letters could not be counted. ${error.message}`;
  } finally {
    Object.assign(counted, { isRunning: false, at: now(), took: now() - began });
  }
  draw();
}

/** A cause that two steps have found: the second one has the newer letters. */
function merge(before, cause) {
  if (!before) return cause;
  return {
    ...cause,
    letters: before.letters + cause.letters,
    attempts: Math.max(before.attempts, cause.attempts),
    reasons: [...new Set([...before.reasons, ...cause.reasons])].slice(0, 3),
    oldest_id: before.oldest_id,
    oldest_seconds_ago: before.oldest_seconds_ago,
  };
}

/** Say what was done, count anew, and keep the focus in the panel if the button is gone. */
export function finish(sentence) {
  setText($("letters-result"), sentence);
  if (document.activeElement === document.body) $("letters-title").focus();
  counted.isOutdated = true;
  renderLetters();
}

/** What an unfolded cause has: its buttons, and its letters. */
function makeBody(node, first) {
  let cause = first;
  const describe = () => [`Cause ${cause.fingerprint}: ${[cause.error_type, textOf(cause.reasons?.[0])].filter(Boolean).join(", ")}`];
  const bar = make(node, "div", { class: "buttons" });
  const button = (label, kind, choose) => {
    const made = make(bar, "button", { type: "button", class: kind }, label);
    made.addEventListener("click", choose);
    return made;
  };
  const where = () => ({ fingerprint: cause.fingerprint });
  const onAll = (name) => () => askAboutLetters(
    name, { where: where(), most: cause.letters, up_to: cause.newest_id }, describe(), done);
  const onSelected = (name) => () => askAboutLetters(name, { ids: [...list.selected] }, describe(), done);
  const all = [button("", "primary", onAll("replay")), button("", "danger", onAll("purge"))];
  const some = [button("", "", onSelected("replay")), button("", "danger", onSelected("purge"))];
  const list = new LetterList(node, { label: "Dead letters of this cause", open: (letter) => openLetter(letter, done), onChange: update });
  node.addEventListener("toggle", () => (node.open ? list.restart(where()) : list.stop()));

  function done(sentence) {
    if (node.open) list.restart(where());
    finish(sentence);
  }

  function update() {
    const selected = list?.selected.size ?? 0;
    setText(all[0], `Replay all ${exact(cause.letters)} …`);
    setText(all[1], `Purge all ${exact(cause.letters)} …`);
    setText(some[0], `Replay ${exact(selected)} selected …`);
    setText(some[1], `Purge ${exact(selected)} selected …`);
    for (const one of some) one.hidden = selected === 0;
    for (const one of [...all, ...some]) one.disabled = isGone();
  }
  return (changed) => {
    cause = changed;
    update();
    if (node.open) list.draw();
  };
}
