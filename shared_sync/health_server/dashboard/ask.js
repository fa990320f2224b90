// Dialogs: one that asks before it does something, and an empty one. The browser keeps the focus inside of an open
// dialog, closes it at Escape, and gives the focus back to the button that has opened it.

import { ActionFailed } from "./actions.js";
import { make, setText } from "./dom.js";

const NAME = "shared_sync.operator";
let made = 0;

function remembered() {
  try {
    return localStorage.getItem(NAME) ?? "";
  } catch {
    return "";
  }
}

function remember(name) {
  try {
    localStorage.setItem(NAME, name);
  } catch { /* then it is asked for each time */ }
}

/** Open a dialog with a title, and return it; it is removed when it is closed. */
export function openDialog(title, kind = "") {
  made += 1;
  const dialog = make(document.body, "dialog", { class: kind, "aria-labelledby": `dialog-${made}` });
  make(dialog, "h2", { id: `dialog-${made}`, tabindex: "-1" }, title);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.showModal();
  return dialog;
}

function field(form, text, attributes) {
  made += 1;
  make(form, "label", { for: `field-${made}` }, text);
  return make(form, "input", { id: `field-${made}`, autocomplete: "off", ...attributes });
}

/**
 * Ask whether to do something, by whom and, if `reason` is set, why; then do it, and show how it goes.
 *
 * `perform({by, reason}, task)` does it and returns a sentence, which `done` gets. What it throws is shown in the
 * dialog. With `typed`, the person has to type that text, so that a purge is never one click away.
 */
export function ask({ title, lines, label, danger = false, typed = null, typedLabel = "", reason = false }, perform, done) {
  const dialog = openDialog(title, "ask");
  for (const line of lines) make(dialog, "p", {}, line);
  const form = make(dialog, "form");
  const by = field(form, "Your name, for the log (nobody verifies it)", { required: "", maxlength: "80", name: "by" });
  by.value = remembered();
  const why = reason ? field(form, "Reason, for everybody who looks at the group", { required: "", maxlength: "200", name: "reason" }) : null;
  const check = typed === null ? null : field(form, typedLabel, { required: "", name: "typed", inputmode: "numeric" });
  const said = make(form, "p", { role: "status" });
  const failed = make(form, "p", { class: "problem", role: "alert" });
  const buttons = make(form, "div", { class: "buttons" });
  const submit = make(buttons, "button", { type: "submit", class: danger ? "danger" : "primary" }, label);
  const cancel = make(buttons, "button", { type: "button" }, "Cancel");
  let isStopped = false;
  let isBusy = false;
  const allow = () => { submit.disabled = isBusy || (check !== null && check.value.trim() !== typed); };
  check?.addEventListener("input", allow);
  allow();
  cancel.addEventListener("click", () => {
    if (!isBusy) dialog.close();
    isStopped = true;
    setText(cancel, "Stopping …");
  });
  dialog.addEventListener("cancel", (event) => { if (isBusy) event.preventDefault(); }); // Escape stops nothing unseen
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (submit.disabled) return;
    [isBusy, isStopped] = [true, false];
    allow();
    setText(failed, "");
    setText(cancel, "Stop");
    remember(by.value.trim());
    const task = { say: (text) => setText(said, text), isStopped: () => isStopped };
    try {
      const sentence = await perform({ by: by.value.trim(), reason: why?.value.trim() }, task);
      dialog.close();
      done(sentence);
    } catch (error) {
      isBusy = false;
      setText(said, "");
      setText(failed, error instanceof ActionFailed ? error.message : "This answer is not understood.");
      setText(cancel, "Close");
      allow();
      if (!(error instanceof ActionFailed)) console.error(error);
    }
  });
  (by.value ? why ?? check ?? cancel : by).focus();
}
