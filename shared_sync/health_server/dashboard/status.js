// The head of the page: status, reasons and probes, or that the worker does not answer.

import { $, SVG, TONES, make, setParts, setText, textOf, updateChildren } from "./dom.js";
import { age, capital, clock, duration } from "./format.js";
import { elapsed, now, page, problem } from "./polling.js";
import { queues } from "./queue.js";
import { remedyFor } from "./remedies.js";

const SIGNS = { // shapes, because not everybody can tell the colours apart
  healthy: "M12 2.5a9.5 9.5 0 1 0 .01 0z M7.5 12.4l3 3 6-6.4",
  degraded: "M12 3 22 20.5H2z M12 9.5v5 M12 17.2v.1",
  unhealthy: "M8 2.5h8l5.5 5.5v8L16 21.5H8L2.5 16V8z M8.5 8.5l7 7 M15.5 8.5l-7 7",
  unknown: "M12 2.5a9.5 9.5 0 1 0 .01 0z M8 12h8",
};
const ICON_COLOURS = { healthy: "#1f8a55", degraded: "#d08700", unhealthy: "#d03a2f", unknown: "#7d8797" };

/** A text without its durations, which grow while nothing else changes. */
const withoutDurations = (text) => String(text).replace(/\d[\d.]*(?= (s|min|h)\b)/g, "#");

/** Have a screen reader read a text, unless only durations in it have changed. */
export function announce(text) {
  const changed = withoutDurations($("announcer").textContent) !== withoutDurations(text);
  if (changed) setText($("announcer"), text);
}

/** Whether the only check is a get_health_data that returns nothing. */
const isBare = ({ checks, health }) => checks.length === 1 && Object.keys(health).length === 0;

export function renderStatus(state, gone) {
  const status = Object.hasOwn(SIGNS, state.status) ? state.status : "unknown";
  setText($("instance"), textOf(state.instance_id));
  $("status").dataset.tone = gone ? "" : TONES[status] ?? "";
  $("status-sign").setAttribute("d", SIGNS[gone ? "unknown" : status]);
  setText($("status-word"), gone ? `Last known: ${status}` : capital(status));
  const fallback = status !== "healthy" ? "No reason was given."
    : isBare(state) ? "Nothing is checked: healthy only means that the server answers."
      : "All checks are healthy.";
  const reasons = state.reasons.length ? state.reasons : [fallback];
  const create = () => document.createElement("li");
  updateChildren($("reasons"), reasons, withoutDurations, create, showReason);
  renderProbes(state, gone);
  const health = state.checks.find((check) => check.name === "get_health_data");
  const lost = clock(Date.now() / 1000 - (now() - page.at));
  setText($("age"), gone ? `Data of ${lost}` : `Data ${age((health?.age_seconds ?? 0) + elapsed())} old`);
  setText($("queues"), queues(state.views));
  document.title = `${capital(gone ? "no answer" : status)}: ${textOf(state.instance_id)}`;
  showIcon(gone ? "unknown" : status);
}

function showReason(node, reason) {
  const remedy = remedyFor(reason);
  setParts(node, [String(reason), ...(remedy ? [{ text: ` What to do: ${remedy}`, class: "remedy" }] : [])]);
}

function renderProbes(state, gone) {
  const probes = [["Live", state.live], ["Ready", state.ready], ["Started", state.started]];
  const create = ([name]) => {
    const box = document.createElement("div");
    make(box, "dt", {}, name);
    make(box, "dd");
    return box;
  };
  updateChildren($("probes"), probes, ([name]) => name, create, (box, [, value]) => {
    const [text, tone] = value === false ? ["✕ no", "bad"] : value === true ? ["✓ yes", "good"] : ["unknown", ""];
    setParts(box.lastChild, { text, class: gone ? "" : tone });
  });
}

function showIcon(status) {
  const line = `fill="none" stroke="${ICON_COLOURS[status]}" stroke-width="3"`;
  const icon = `<svg xmlns="${SVG}" viewBox="0 0 24 24"><path d="${SIGNS[status]}" ${line}/></svg>`;
  const address = `data:image/svg+xml,${encodeURIComponent(icon)}`;
  if ($("icon").href !== address) $("icon").href = address;
}

/** The banner for a worker that does not answer. */
export function renderGone(gone) {
  $("gone").hidden = !gone;
  $("page").classList.toggle("stale", gone);
  if (!gone) return;
  const ago = now() - (page.state ? page.at : page.lostAt);
  const since = clock(Date.now() / 1000 - ago);
  const last = page.state ? `Last answer at ${since}, ${duration(Math.floor(ago) || 1)} ago` : `First request at ${since}`;
  setText($("gone-since"), `${last}: ${problem()}.${page.state ? " The data below are from then." : ""}`);
  const left = Math.ceil(page.nextAt - now());
  const next = page.asking || left <= 0 ? "Asking now …" : `Next attempt in ${left} s (attempt ${page.failures + 1}).`;
  setText($("gone-next"), next);
}
