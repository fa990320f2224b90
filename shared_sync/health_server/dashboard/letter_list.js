// A list of dead letters that the server finds step by step, each of which can be opened and selected.

import { ActionFailed, act } from "./actions.js";
import { code, make, setText, table, textOf } from "./dom.js";
import { age, clock, exact, plural } from "./format.js";

const PAGE = 20;
const MOST_LISTED = 1000; // on the page at once

const now = () => Date.now() / 1000;

export class LetterList {
  /** A list in a node. `open(letter)` shows one, and `onChange()` is called after the selection has changed. */
  constructor(parent, { label, open, onChange = () => {} }) {
    this.selected = new Set();
    this.letters = [];
    this.onChange = onChange;
    this.problem = make(parent, "p", { class: "problem", role: "alert" });
    this.show = table(parent, label, [
      { label: "Select", bare: true, fill: (box, letter) => this.makeCheckbox(box, letter) },
      { label: "Message", bare: true, fill: (box, letter) => {
        const button = make(box, "button", { type: "button", class: "name" }, textOf(letter.message_id || letter.id));
        button.addEventListener("click", () => open(letter));
      } },
      { label: "Attempts", number: true, cell: (letter) => textOf(letter.attempts) },
      { label: "When", number: true, cell: (letter) => `${age(now() - letter.since)} ago` },
      { label: "Worker", cell: (letter) => code(letter.worker) },
      { label: "Details", wide: true, cell: (letter) => textOf(letter.details) },
    ], (letter) => letter.id);
    this.table = parent.lastChild;
    this.note = make(parent, "p", { class: "muted", role: "status" });
    this.more = make(parent, "button", { type: "button", class: "quiet more" }, "Show more");
    this.more.addEventListener("click", () => (this.isLoading ? this.stop() : this.load()));
    this.draw();
  }

  makeCheckbox(box, letter) {
    const name = `Select message ${textOf(letter.message_id || letter.id)}`;
    const node = make(box, "input", { type: "checkbox", "aria-label": name });
    node.addEventListener("change", () => {
      if (node.checked) this.selected.add(letter.id);
      else this.selected.delete(letter.id);
      this.onChange();
    });
  }

  /** List the letters that match from the beginning. */
  restart(where) {
    this.where = where;
    this.letters = [];
    this.selected.clear();
    this.onChange();
    this.after = "";
    return this.load();
  }

  /** End the search after its current step. */
  stop() {
    this.run = null;
  }

  /** Find the next letters, up to a page of them. */
  async load() {
    const run = {}; // another restart() ends this search
    this.run = run;
    this.isLoading = true;
    setText(this.problem, "");
    const enough = this.letters.length + PAGE;
    try {
      while (this.run === run && this.after !== null && this.letters.length < enough) {
        this.draw();
        const limit = enough - this.letters.length;
        const answer = await act("letters", { where: this.where, after: this.after, limit });
        if (this.run !== run) break;
        this.letters.push(...answer.letters.map((letter) => ({ ...letter, since: now() - letter.seconds_ago })));
        this.after = answer.next;
      }
    } catch (error) {
      if (!(error instanceof ActionFailed)) throw error;
      setText(this.problem, error.message);
    } finally {
      if (this.run === run || this.run === null) this.isLoading = false;
      this.draw();
    }
  }

  draw() {
    this.show(this.letters);
    this.table.hidden = this.letters.length === 0;
    this.more.hidden = this.after === null || this.after === undefined || this.letters.length >= MOST_LISTED;
    setText(this.more, this.isLoading ? "Stop" : this.letters.length ? "Show more" : "Go on");
    setText(this.note, this.sentence());
  }

  sentence() {
    const number = plural(this.letters.length, "dead letter");
    if (this.where === undefined) return "";
    if (this.after === null) return this.letters.length ? `${number}, the oldest first.` : "No dead letter matches.";
    if (this.letters.length >= MOST_LISTED) return `The oldest ${exact(MOST_LISTED)} are listed.`;
    const [ms] = this.after.split("-");
    const upTo = ms ? `, searched up to those of ${new Date(Number(ms)).toLocaleDateString("en-GB")} ${clock(Number(ms) / 1000)}` : "";
    return `${this.isLoading ? "Searching: " : ""}${number} so far${upTo}.`;
  }
}
