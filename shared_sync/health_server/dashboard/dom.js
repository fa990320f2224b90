// Building and updating the page: a node is only touched if its content has changed.

export const $ = (id) => document.getElementById(id);
export const SVG = "http://www.w3.org/2000/svg";

export function make(parent, tag, attributes = {}, text = null) {
  const node = parent.namespaceURI === SVG || tag === "svg" ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  parent.append(node);
  return node;
}

/** Set a text only if it has changed: a node that is not touched keeps the reader's selection. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const drawn = new WeakMap();

/** Show parts in a node, each a text or {tag, class, text, share}, unless it shows them already. */
export function setParts(node, parts) {
  const signature = JSON.stringify(parts);
  if (drawn.get(node) === signature) return;
  drawn.delete(node); // until all parts are drawn: if one cannot be, the next call must try again
  node.replaceChildren();
  for (const part of [parts].flat()) {
    if (typeof part === "string") node.append(part);
    else if (part.share === undefined) make(node, part.tag ?? "span", { class: part.class ?? "" }, part.text);
    else {
      const bar = make(node, "span", { class: "bar", "aria-hidden": "true" });
      make(bar, "i", { class: part.class }).style.width = `${Math.min(1, part.share) * 100}%`;
    }
  }
  drawn.set(node, signature);
}

/** Give a node one child per item, in the order of the items; children of items that stay are kept. */
export function updateChildren(parent, items, keyOf, create, update) {
  const before = drawn.get(parent) ?? new Map();
  const now = new Map();
  try {
    for (const item of items) {
      let key = String(keyOf(item));
      while (now.has(key)) key += "+"; // two items of the same name must both be shown
      const node = before.get(key) ?? create(item);
      now.set(key, node);
      if (parent.children[now.size - 1] !== node) parent.insertBefore(node, parent.children[now.size - 1] ?? null);
      update(node, item);
    }
  } catch (error) {
    drawn.set(parent, new Map([...before, ...now])); // otherwise the children made so far would stay for ever
    throw error;
  }
  for (const [key, node] of before) if (!now.has(key)) node.remove();
  drawn.set(parent, now);
}

/** Draw a part of the page. If that fails, the part says so and the other parts are still drawn. */
export function attempt(node, what, draw) {
  const message = node.querySelector(":scope > .misread");
  try {
    draw();
    message?.remove();
  } catch (error) {
    if (message) return;
    make(node, "p", { class: "misread problem" }, notUnderstood(what));
    console.error(error); // once, and not each time the page is drawn
  }
}

export const notUnderstood = (what) => `This ${what} is not understood.`;

export const TONES = {
  healthy: "good", degraded: "warn", unhealthy: "bad",
  running: "good", waiting: "", loading: "", paused: "warn", late: "warn", stuck: "bad", stalled: "bad", ended: "bad",
};
export const badge = (text, tone = TONES[text] ?? "") => ({ text, class: `badge ${tone}` });
export const textOf = (value) => (value === null || value === undefined || value === "" ? "–" : String(value));
// The browser must not break an id or a name at its hyphens.
const whole = (tag) => (value) => {
  const text = textOf(value);
  return text === "–" ? text : { tag, text, class: text.length <= 26 ? "whole" : "" };
};
export const code = whole("code");
export const oneWord = whole("span");

/**
 * Make a table with columns [{label, cell: (row) => parts, number, bare, wide}], and return a function
 * that shows rows in it. In place of `cell`, `fill(box, row)` fills a box once, as with a button. On a phone each row becomes a card, on which bare cells have no label and wide
 * ones have a line of their own.
 */
export function table(parent, label, columns, keyOf) {
  // Explicit roles, because display: block removes the implicit ones.
  const node = make(make(parent, "div", { class: "scroll" }), "table", { class: "cards", role: "table", "aria-label": label });
  const head = make(make(node, "thead", { role: "rowgroup" }), "tr", { role: "row" });
  const kind = (column) => ({ class: column.number ? "number" : "" });
  for (const column of columns) make(head, "th", { role: "columnheader", scope: "col", ...kind(column) }, column.label);
  const body = make(node, "tbody", { role: "rowgroup" });
  const create = (item) => {
    const row = document.createElement("tr");
    row.setAttribute("role", "row");
    for (const column of columns) {
      const names = ["number", "bare", "wide"].filter((name) => column[name]).join(" ");
      const cell = make(row, "td", { role: "cell", "data-label": column.label, class: names });
      const box = make(cell, "div"); // one box, which a card on a phone shows beside its label
      column.fill?.(box, item);
    }
    return row;
  };
  return (rows) => updateChildren(body, rows, keyOf, create, (row, item) => columns.forEach((column, at) => {
    if (column.fill) return;
    const parts = column.cell(item);
    setParts(row.children[at].firstChild, parts);
    row.children[at].classList.toggle("none", parts === "–");
  }));
}

