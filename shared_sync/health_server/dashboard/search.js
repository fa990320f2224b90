// Finding messages: by their id wherever they are, and among the dead letters also by what is known about them.

import { ActionFailed, act, actsOn } from "./actions.js";
import { $, make, setText } from "./dom.js";
import { duration, percent, plural } from "./format.js";
import { openLetter, showFields } from "./letter.js";
import { LetterList } from "./letter_list.js";
import { finish } from "./letters.js";

const KINDS = { // what to search for, and which conditions of a dead letter that is
  id: { label: "Message id", where: ({ value }) => ({ message_ids: [value] }) },
  field: { label: "Value of a field", where: ({ name, value }) => ({ fields: { [name]: value } }) },
  error: { label: "Text of an error", where: ({ value }) => ({ error: value }) },
};

/** Where a message is, as a sentence. */
function sentenceOf(found) {
  const { state, consumer, attempt, idle_seconds: idle, due_in_seconds: due, failures, progress } = found;
  const at = due === null ? "" : due <= 0 ? ", due now" : `, due in ${duration(Math.ceil(due))}`;
  const failed = failures ? ` It has failed ${plural(failures, "time")}.` : "";
  const share = progress === null ? "" : ` Its progress is ${percent(progress * 100)}.`;
  const sentences = {
    scheduled: `It is scheduled${at}.`,
    waiting: "It waits to be read.",
    parked: `It is parked${at}.${failed}`,
    running: consumer ? `It runs on ${consumer}, attempt ${attempt}, for ${duration(idle)}.${failed}${share}` : "It runs in another group of the stream.",
    ended: "It has ended: it was done, cancelled, expired, or became a dead letter.",
    unknown: "The stream has no message of this id, and none is scheduled.",
  };
  return sentences[state] ?? state;
}

let list;

/** Make the form. */
export function makeSearch() {
  const form = make($("acting"), "form", { id: "search", role: "search", class: "search" });
  make(form, "label", { for: "search-kind" }, "Find");
  const kind = make(form, "select", { id: "search-kind" });
  for (const [value, { label }] of Object.entries(KINDS)) make(kind, "option", { value }, label);
  const name = make(form, "input", { "aria-label": "Name of the field", placeholder: "name", maxlength: "200", autocomplete: "off", spellcheck: "false" });
  const value = make(form, "input", { "aria-label": "Search for", required: "", maxlength: "2000", autocomplete: "off", spellcheck: "false" });
  make(form, "button", { type: "submit" }, "Search");
  const found = make($("acting"), "div", { id: "found" });
  const showKind = () => {
    name.hidden = kind.value !== "field";
    name.required = kind.value === "field";
  };
  kind.addEventListener("change", showKind);
  showKind();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    search(found, kind.value, { name: name.value, value: kind.value === "id" ? value.value.trim() : value.value });
  });
}

async function search(node, kind, wanted) {
  list?.stop();
  node.replaceChildren();
  const state = kind === "id" ? make(node, "div") : null;
  make(node, "h3", {}, "Dead letters");
  const done = (sentence) => {
    finish(sentence);
    list.restart(where);
  };
  const where = KINDS[kind].where(wanted);
  list = new LetterList(node, { label: "Dead letters that were found", open: (letter) => openLetter(letter, done) });
  const listing = list.restart(where);
  if (state) await showState(state, wanted.value);
  await listing;
}

async function showState(node, id) {
  make(node, "h3", {}, `Message ${id}`);
  const said = make(node, "p", { role: "status" }, "Asking the server …");
  try {
    const found = await act("find", { message_id: id });
    setText(said, sentenceOf(found));
    if (found.fields.length) showFields(node, found);
  } catch (error) {
    if (!(error instanceof ActionFailed)) throw error;
    said.className = "problem";
    setText(said, error.message);
  }
}

/** Draw what is above the tables of the group. */
export function renderSearch() {
  const on = actsOn();
  $("acting").hidden = on === null;
  if (on !== null) setText($("acting-on"), `${on.stream} · ${on.group}`);
}
