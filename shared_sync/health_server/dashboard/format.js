// Writes numbers, durations and times as people read them.

const THOUSANDS = ["", "k", "M", "G", "T"];
const BYTES = ["B", "KB", "MB", "GB", "TB"];

/** Write a number with so many significant digits, but all digits before the decimal point. */
function plain(n, digits = 3) {
  const before = String(Math.trunc(Math.abs(n))).length;
  return n.toLocaleString("en-US", { maximumSignificantDigits: Math.max(digits, before) });
}

function scaled(n, steps, base) {
  let unit = 0;
  // 999.6 would be rounded to 1000 of one unit instead of 1 of the next.
  while (unit < steps.length - 1 && Math.abs(n) >= base * 0.9995) [n, unit] = [n / base, unit + 1];
  return `${plain(n)}${steps[unit] && " " + steps[unit]}`;
}

const known = (write) => (n) => (typeof n === "number" && Number.isFinite(n) ? write(n) : "–");
export const count = known((n) => scaled(n, THOUSANDS, 1000));
export const rate = known((n) => `${scaled(n, THOUSANDS, 1000)}/s`);
export const percent = known((n) => `${plain(n, 2)} %`);
export const megabytes = known((n) => scaled(n, BYTES.slice(2), 1024));
const bytes = known((n) => scaled(n, BYTES, 1024));
export const exact = known((n) => n.toLocaleString("en-US", { maximumFractionDigits: 4 }));

export const duration = known((seconds) => {
  if (seconds < 0) return `-${duration(-seconds)}`;
  if (seconds < 0.9995) return `${plain(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${plain(seconds, 2)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole % 60 ? ` ${whole % 60} s` : ""}`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
  const hours = Math.floor(minutes / 60);
  return `${Math.floor(hours / 24)} d${hours % 24 ? ` ${hours % 24} h` : ""}`;
});
export const age = known((seconds) => (seconds < 1 ? "< 1 s" : duration(seconds < 60 ? Math.floor(seconds) : seconds)));
export const milliseconds = known((n) => duration(n / 1000));

/** The local time of day of a moment in seconds since 1970. */
export function clock(seconds, parts = { timeStyle: "medium" }) {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB", parts);
}

export const plural = (n, word) => `${exact(n)} ${word}${n === 1 ? "" : "s"}`;
export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
export const isNumber = (value) => typeof value === "number";
export const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value) ?? "");

/** The function that writes the values of a metric, by the unit in the metric's name (without labels). */
export function formatOf(name) {
  const stem = name.replace(/\{.*/, "");
  if (stem.endsWith("_per_second")) return rate;
  if (stem.endsWith("_ms")) return milliseconds;
  if (stem.endsWith("_seconds")) return duration;
  if (stem.endsWith("_mb")) return megabytes;
  if (stem.endsWith("_bytes") || stem.startsWith("audio_bytes")) return bytes;
  if (stem.endsWith("_percent")) return percent;
  if (stem.endsWith("_celsius")) return known((n) => `${plain(n)} °C`);
  if (stem.endsWith("_ratio") || stem === "error_rate") return known((n) => percent(n * 100));
  return exact;
}
