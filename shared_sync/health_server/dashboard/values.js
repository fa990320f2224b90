// The table of all values of health and metrics, which can be filtered, and each of which can be drawn.

import { valuesOf } from "./checks.js";
import { choose, isChosen } from "./charts.js";
import { $, make, setText, updateChildren } from "./dom.js";
import { asText, exact, isNumber } from "./format.js";
import { history } from "./history.js";

/** Every value as {name, value, source}, by name; a mapping (errors by type) becomes one value per key. */
function flatten(state) {
  const rows = new Map();
  const add = (name, value, source) => {
    if (value !== null && typeof value === "object" && !Array.isArray(value)) {
      for (const [key, inner] of Object.entries(value)) add(`${name}.${key}`, inner, source);
      return;
    }
    const same = [...(rows.get(name) ?? [])].find((row) => Object.is(row.value, value));
    if (same) same.source += `, ${source}`;
    else rows.set(name, [...(rows.get(name) ?? []), { name, value, source }]);
  };
  for (const [source, values] of Object.entries({ health: valuesOf(state.health), metrics: state.metrics }))
    for (const [name, value] of Object.entries(values)) add(name, value, source);
  return [...rows.values()].flat().sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
}

let redraw = () => {};

/** Make the empty table; `render` draws the page again. */
export function makeValues(render) {
  redraw = render;
  const scroll = make($("figures").querySelector(".body"), "div", { class: "scroll" });
  const node = make(scroll, "table", { "aria-label": "All values" });
  const head = make(make(node, "thead"), "tr");
  for (const label of ["Name", "Value", "Source"])
    make(head, "th", { scope: "col", class: label === "Value" ? "number" : "" }, label);
  make(node, "tbody", { id: "figure-rows" });
  $("filter").addEventListener("input", render);
  $("figures").querySelector("details").addEventListener("toggle", render);
}

export function renderValues(state) {
  const all = flatten(state);
  const wanted = $("filter").value.trim().toLowerCase();
  const rows = all.filter(({ name }) => name.toLowerCase().includes(wanted));
  setText($("figures-count"), all.length === 0 ? "None: neither get_health_data nor get_metrics_data returns any."
    : rows.length < all.length ? `${rows.length} of ${all.length}` : String(all.length));
  if (!$("figures").querySelector("details").open) return;
  updateChildren($("figure-rows"), rows, ({ name, source }) => `${name} ${source}`, makeRow, updateRow);
}

function makeRow({ name }) {
  const line = document.createElement("tr");
  const button = make(make(line, "td"), "button", { type: "button", class: "name" }, name);
  button.addEventListener("click", () => {
    choose(name);
    redraw();
  });
  make(line, "td", { class: "number" });
  make(line, "td", { class: "muted" });
  return line;
}

function updateRow(line, { name, value, source }) {
  const button = line.firstChild.firstChild;
  button.disabled = !history.columns.has(name);
  button.setAttribute("aria-pressed", String(isChosen(name)));
  setText(line.children[1], isNumber(value) ? exact(value) : asText(value));
  line.children[1].classList.toggle("text", !isNumber(value));
  setText(line.children[2], source);
}
