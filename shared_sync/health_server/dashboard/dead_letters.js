// Dead letters by their causes, for whoever may only look; `letters.js` is for whoever may act.

import { code, make, setParts, setText, table, textOf, updateChildren } from "./dom.js";
import { duration, exact, plural } from "./format.js";
import { aged, inOrder, isRow } from "./rows.js";

/** The letters of each cause that are shown, by fingerprint, the newest letter first. */
function byCause(letters) {
  const groups = new Map();
  for (const letter of letters) {
    const key = letter.fingerprint ?? `of ${letter.id}`;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(letter);
  }
  for (const of of groups.values()) of.sort((a, b) => a.seconds_ago - b.seconds_ago);
  return groups;
}

/** The causes of dead letters, the one with the newest letter first; a view that counts none has those of its rows. */
export function causes(data, lag) {
  const shown = byCause(aged(data.dead_letters, "seconds_ago", lag));
  const counted = data.dead_letter_causes;
  const all = Array.isArray(counted) && counted.every(isRow) ? aged(counted, "seconds_ago", lag)
    : [...shown].map(([fingerprint, of]) => ({
      fingerprint, letters: of.length, error_type: of[0].error_type, seconds_ago: of[0].seconds_ago,
      reasons: [...new Set(of.map((letter) => textOf(letter.reason)))].slice(0, 3),
      attempts: Math.max(...of.map((letter) => letter.attempts ?? 0)),
    }));
  return all.map((cause) => ({ ...cause, shown: shown.get(cause.fingerprint) ?? [] }))
    .sort((a, b) => a.seconds_ago - b.seconds_ago);
}

/** How many causes there are, and of how many letters if not all of them were counted. */
export function countCauses(shown) {
  const number = shown.reduce((sum, { data, more }) => sum + (data.dead_letter_causes_total ?? more.length), 0);
  const counted = shown.reduce((sum, { data, rows }) => sum + (data.dead_letters_counted ?? rows.length), 0);
  const all = shown.reduce((sum, { total }) => sum + total, 0);
  const listed = shown.reduce((sum, { more }) => sum + more.length, 0);
  const some = listed < number ? `${exact(listed)} of ` : "";
  return some + plural(number, "cause") + (counted < all ? ` of the newest ${exact(counted)}` : "");
}

export const LETTERS = [
  { label: "Message", bare: true, cell: (letter) => code(letter.message_id) },
  { label: "Letter", cell: (letter) => code(letter.id) },
  { label: "Attempts", number: true, cell: (letter) => textOf(letter.attempts) },
  { label: "When", number: true, cell: (letter) => `${duration(letter.seconds_ago)} ago` },
  { label: "Details", wide: true, cell: (letter) => textOf(letter.details) },
];

/** Whether somebody reads in a node: the pointer or the focus is there, or a part of it is unfolded. */
const isRead = (node) => node.matches(":hover, :focus-within") || node.querySelector("details[open]") !== null;

/**
 * Make a list of causes that can be unfolded, and return a function that shows causes in it. None changes its place
 * while somebody reads. `makeBody(node, cause)` fills an unfolded cause, and returns what updates it.
 */
export function drawCauses(parent, makeBody) {
  const list = make(parent, "div", { class: "causes" });
  const places = new Map();
  const keyOf = ({ fingerprint }) => fingerprint;
  const create = (cause) => {
    const node = document.createElement("details");
    const summary = make(node, "summary");
    make(summary, "span", { class: "times" });
    make(summary, "span");
    make(summary, "span", { class: "when" });
    node.updateBody = makeBody(node, cause);
    return node;
  };
  const update = (node, cause) => {
    const { letters, error_type: type, reasons, fingerprint, attempts, seconds_ago: ago } = cause;
    const [times, text, when] = node.firstChild.children;
    setText(times, `× ${exact(letters)}`);
    setParts(text, [
      { tag: "strong", text: type ?? "" },
      ` ${[reasons].flat().map(textOf).join(" / ")} `,
      { tag: "code", class: "muted", text: String(fingerprint).startsWith("of ") ? "" : fingerprint },
    ]);
    setText(when, `${plural(attempts ?? 0, "attempt")} · ${letters > 1 ? "newest " : ""}${duration(ago)} ago`);
    node.updateBody(cause);
  };
  return (all) => {
    if (!isRead(list)) places.clear();
    updateChildren(list, inOrder(places, all, keyOf), keyOf, create, update);
  };
}

/** A list of causes whose letters can be looked at. */
export function drawLetters(parent) {
  const show = drawCauses(parent, (node) => {
    const showLetters = table(node, "Dead letters of this cause", LETTERS, (letter) => letter.id);
    const scroll = node.lastChild;
    const note = make(node, "p", { class: "muted" });
    return ({ shown, letters }) => {
      showLetters(shown);
      scroll.hidden = shown.length === 0;
      const rest = shown.length < letters;
      note.hidden = !rest;
      setText(note, !rest ? "" : shown.length ? `The newest ${shown.length} of ${exact(letters)} are shown.`
        : "Only the newest dead letters are shown, and none of them has this cause.");
    };
  });
  return (_, all) => show(all);
}
