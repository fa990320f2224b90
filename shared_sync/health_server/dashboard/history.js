// The history of all values: one column for each name, by time, across restarts of the worker.

export const KEEP_SECONDS = 3600;
export const RATE_SECONDS = 30; // over a single sampling period, the rate of a slow worker is 0 or a spike

export const history = {
  run: null, next: null, period: 5, times: [], columns: new Map(),
  marks: [], // {at, text}: where the worker was restarted, or its clock set back
  mark: null, // the text at the next sample, which is the first of a run
};

/**
 * Add an answer of /api/history. Returns false if the worker was restarted: request its whole history.
 * The samples of the old run stay, because those before a crash are the interesting ones.
 */
export function append(answer) {
  if (history.run !== null && history.run !== answer.run && history.next !== null) {
    Object.assign(history, { run: answer.run, next: null, mark: "restart" });
    return false;
  }
  const period = answer.period_seconds;
  const names = new Set([...history.columns.keys(), ...Object.keys(answer.figures)]);
  const fresh = newRows(answer);
  const before = history.times.length;
  for (const row of fresh) addTime(answer.times[row], period);
  for (const name of names) {
    const column = history.columns.get(name) ?? new Array(before).fill(null);
    for (const row of fresh) column.push(answer.figures[name]?.[row] ?? null);
    history.columns.set(name, column);
  }
  Object.assign(history, { run: answer.run, next: answer.next, period });
  const end = history.times.at(-1);
  const old = history.times.findIndex((time) => time >= end - KEEP_SECONDS);
  if (old > 0) for (const column of [history.times, ...history.columns.values()]) column.splice(0, old);
  history.marks = history.marks.filter(({ at }) => at >= history.times[0]);
  return true;
}

/** The rows of an answer that are new: within a run by their sequence numbers, as its clock may be set back. */
function newRows({ sequences, times, period_seconds: period }) {
  const rows = sequences.map((_, row) => row);
  if (history.next !== null) return rows.filter((row) => sequences[row] >= history.next);
  // Rows of another run are new if they are later than all shown, or if its clock is behind.
  const last = history.times.at(-1) ?? -Infinity;
  return times.at(-1) < last - 3 * period ? rows : rows.filter((row) => times[row] > last);
}

/** Add a time. If the clock was set back, all earlier times move back too, so that times always grow. */
function addTime(time, period) {
  const by = history.times.at(-1) + period - time;
  if (by >= period) {
    history.times = history.times.map((old) => old - by);
    history.marks = history.marks.map(({ at, text }) => ({ at: at - by, text }));
    history.mark ??= "clock set back";
  }
  history.times.push(time);
  if (history.mark) history.marks.push({ at: time, text: history.mark });
  history.mark = null;
}

/**
 * The growth per second of a counter at each time, over up to `window` seconds before it. null (a gap)
 * where the growth is unknown: at a fall (the counter was restarted), at a value that is not known, and
 * after more than `longest` seconds without a sample.
 */
export function rates(times, values, window = RATE_SECONDS, longest = Infinity) {
  const growth = values.map((value, at) => {
    const before = values[at - 1] ?? null;
    const fine = at > 0 && value !== null && before !== null && value >= before && times[at] - times[at - 1] <= longest;
    return fine ? value - before : null;
  });
  return growth.map((last, at) => {
    if (last === null) return null;
    let [sum, from] = [0, at];
    while (growth[from] !== null && from > 0 && (from === at || times[at] - times[from - 1] <= window)) sum += growth[from--];
    return sum / (times[at] - times[from]);
  });
}
