// One dead letter as a whole, in a dialog: fields, error, traceback, history, and what can be done about it.

import { ActionFailed, act, actOnLetters } from "./actions.js";
import { ask, openDialog } from "./ask.js";
import { code, make, table, textOf } from "./dom.js";
import { clock, duration, exact, formatOf, isNumber } from "./format.js";

const bytes = formatOf("size_bytes");

/** A moment in seconds since 1970, as date and time. */
const moment = (seconds) => (isNumber(seconds) && seconds > 0
  ? `${new Date(seconds * 1000).toLocaleDateString("en-GB")} ${clock(seconds)}` : "–");

const FIELDS = [
  { label: "Field", bare: true, cell: (field) => code(field.name) },
  { label: "Value", wide: true, cell: (field) => (field.sha256 ? `bytes, SHA-256 ${field.sha256}`
    : { tag: "span", class: "value", text: `${field.text}${field.cut ? " …" : ""}` }) },
  { label: "Size", number: true, cell: (field) => bytes(field.size) },
];
const HISTORY = [
  { label: "Attempt", number: true, cell: (failure) => textOf(failure.attempt) },
  { label: "When", cell: (failure) => moment(failure.time) },
  { label: "Worker", cell: (failure) => code(failure.worker) },
  { label: "Error", wide: true, cell: (failure) => [failure.error_type, failure.error].filter(Boolean).join(": ") || "–" },
];

/** Show the fields of a message. */
export function showFields(parent, { fields, fields_total: total }) {
  make(parent, "h3", {}, "Fields of the message");
  if (fields.length === 0) make(parent, "p", { class: "muted" }, "It has none.");
  else table(parent, "Fields of the message", FIELDS, (field) => field.name)(fields);
  if (total > fields.length) make(parent, "p", { class: "muted" }, `The first ${exact(fields.length)} of ${exact(total)} fields are shown.`);
}

function showFacts(parent, letter) {
  const facts = make(parent, "dl", { class: "facts" });
  for (const [name, value] of [
    ["Message", letter.message_id], ["Reason", letter.reason], ["Error", [letter.error_type, letter.error].filter(Boolean).join(": ")],
    ["Cause", letter.fingerprint], ["Attempts", letter.attempts], ["Crashes", letter.crashes], ["Worker", letter.worker],
    ["Given up", `${moment(letter.time)}, ${duration(letter.seconds_ago)} ago`], ["Size", bytes(letter.size)], ["Imported from", letter.imported_from],
  ]) {
    if (value === "" || value === null || value === undefined) continue;
    make(facts, "dt", {}, name);
    make(facts, "dd", {}, String(value));
  }
}

function showLetter(parent, letter) {
  showFacts(parent, letter);
  showFields(parent, letter);
  if (letter.traceback) {
    make(parent, "h3", {}, "Traceback");
    make(parent, "pre", { class: "trace", tabindex: "0", "aria-label": "Traceback" }, letter.traceback);
  }
  if (letter.history.length) {
    make(parent, "h3", {}, "Failures");
    const shown = letter.history.map((failure, at) => ({ ...failure, at }));
    table(parent, "Failures", HISTORY, (failure) => failure.at)(shown);
  }
}

/** What a question about dead letters says. */
const ABOUT = {
  replay: "The messages are published again as new ones, behind all that wait, without their failures. What is still wrong fails again.",
  purge: "The messages and all that is known about them are deleted for good. This cannot be undone.",
};

/**
 * Ask whether to replay or purge letters, and do it. `selection` is {ids}, or {where, most, up_to}; `lines` say which
 * letters they are. `done(sentence)` is called at the end.
 */
export function askAboutLetters(name, selection, lines, done) {
  const number = selection.ids?.length ?? selection.most;
  const letters = number === 1 ? "1 dead letter" : `${exact(number)} dead letters`;
  const title = name === "replay" ? `Replay ${letters}?` : `Purge ${letters}?`;
  ask({
    title,
    lines: [...lines, ABOUT[name]],
    label: name === "replay" ? `Replay ${exact(number)}` : `Purge ${exact(number)}`,
    danger: name === "purge",
    typed: name === "purge" ? String(number) : null,
    typedLabel: `Type ${number}, the number of letters, to confirm`,
  }, ({ by }, task) => actOnLetters(name, selection, by, task), done);
}

/** Open a dead letter. `done(sentence)` is called after it was replayed or purged. */
export async function openLetter({ id }, done) {
  const dialog = openDialog(`Dead letter ${id}`, "letter");
  const body = make(dialog, "div", { class: "body" });
  make(body, "p", { class: "muted", role: "status" }, "Asking the server …");
  const buttons = make(dialog, "div", { class: "buttons" });
  const close = make(buttons, "button", { type: "button" }, "Close");
  close.addEventListener("click", () => dialog.close());
  close.focus();
  let letter;
  try {
    letter = await act("letter", { id });
  } catch (error) {
    if (!(error instanceof ActionFailed)) throw error;
    body.replaceChildren();
    make(body, "p", { class: "problem", role: "alert" }, error.message);
    return;
  }
  body.replaceChildren();
  showLetter(body, letter);
  const lines = [`Message ${textOf(letter.message_id)}: ${[letter.error_type, letter.reason].filter(Boolean).join(", ")}`];
  for (const [name, label, kind] of [["purge", "Purge …", "danger"], ["replay", "Replay …", "primary"]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = kind;
    button.textContent = label;
    buttons.prepend(button);
    button.addEventListener("click", () => askAboutLetters(name, { ids: [id] }, lines, (sentence) => {
      dialog.close();
      done(sentence);
    }));
  }
}
