// The table of checks.

import { $, badge, setText, table, textOf } from "./dom.js";
import { age, asText, duration, formatOf, isNumber } from "./format.js";
import { elapsed, page } from "./polling.js";

const COLUMNS = [
  { label: "Check", bare: true, cell: (check) => textOf(check.name) },
  { label: "Status", bare: true, cell: (check) => badge(isFirst(check) ? "first run" : textOf(check.status)) },
  { label: "Critical", bare: true, cell: (check) => (check.critical ? "critical" : "not critical") },
  { label: "Probes", cell: (check) => (check.probes ?? []).join(", ") || "–" },
  { label: "Age", number: true, cell: (check) => (isNumber(check.age_seconds) ? age(check.age_seconds + elapsed()) : "–") },
  { label: "Result", wide: true, cell: resultOf },
];
const RANK = { unhealthy: 0, degraded: 1 };

/** What health data contain beside a status and its reasons, which have places of their own. */
export const valuesOf = ({ status, reasons, ...values }) => values;

/** Whether the first call of a check still runs, within its time limit. */
function isFirst({ age_seconds: old, running_seconds: running, timeout_seconds: limit }) {
  return !isNumber(old) && isNumber(running) && running + elapsed() <= limit;
}

function resultOf(check) {
  const parts = [];
  if (check.reasons.length) parts.push(`${check.reasons.join("; ")} `);
  const running = isNumber(check.running_seconds) ? check.running_seconds + elapsed() : 0;
  const late = running > check.timeout_seconds;
  if (late || isFirst(check)) parts.push({ text: `Running for ${age(running)}. `, class: late ? "problem" : "muted" });
  // The values of get_health_data are in the table of all values; those of other checks only here.
  const values = check.name === "get_health_data" ? [] : Object.entries(valuesOf(check.figures));
  const written = values.map(([name, value]) => `${name} ${isNumber(value) ? formatOf(name)(value) : areAlerts(value) ? alertsOf(value) : asText(value)}`);
  if (written.length) parts.push({ text: written.join(" · "), class: "muted" });
  const failure = page.state.failures?.[check.name];
  if (failure) parts.push({ tag: "code", text: failure, class: "failure" });
  return parts.length ? parts : "–";
}

const areAlerts = (value) => Array.isArray(value) && value.length > 0 && value.every((one) => typeof one?.figure === "string" && "above" in one && "below" in one);

/** The limits of the metrics, such as "error_rate above 20 % for 1 min". */
function alertsOf(alerts) {
  return alerts.map(({ figure, above, below, for_seconds: seconds }) => {
    const [side, limit] = isNumber(above) ? ["above", above] : ["below", below];
    return `if ${figure} ${side} ${formatOf(figure)(limit)} for ${duration(seconds)}`;
  }).join(", ");
}

let showRows = () => {};

export function makeChecks() {
  showRows = table($("checks").querySelector(".body"), "Checks", COLUMNS, (check) => check.name);
}

/** Draw the checks, the least healthy first. */
export function renderChecks(state) {
  const checks = [...state.checks].sort((a, b) => (RANK[a.status] ?? 2) - (RANK[b.status] ?? 2));
  const bad = checks.filter((check) => RANK[check.status] !== undefined).length;
  setText($("checks").querySelector(".note"), `${checks.length} · ${bad ? `${bad} not healthy` : "all healthy"}`);
  showRows(checks);
}
