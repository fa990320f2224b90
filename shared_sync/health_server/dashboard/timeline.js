// How many workers were alive over the last hour, with a mark for each event.

import { make, setText, updateChildren } from "./dom.js";
import { clock, duration, isNumber, plural } from "./format.js";

const [WIDTH, HEIGHT, LEFT, TOP, BOTTOM] = [1000, 96, 28, 8, 74];
const HOUR = 3600;
const MARKED = { gone: "bad", taken_over: "warn", redis_back: "warn", release: "release", paused: "warn", resumed: "warn" };

/** A step line of counts that end at a moment; null counts, when nobody looked, are gaps. */
export function steps(counts, x, y) {
  let path = "";
  let isDown = false;
  counts.forEach((number, at) => {
    if (isNumber(number)) {
      path += `${isDown ? "L" : "M"}${x(at).toFixed(1)} ${y(number).toFixed(1)}L${x(at + 1).toFixed(1)} ${y(number).toFixed(1)}`;
    }
    isDown = isNumber(number);
  });
  return path;
}

export class Timeline {
  constructor(parent) {
    this.node = parent;
    this.caption = make(parent, "p", { class: "muted small" });
    this.svg = make(parent, "svg", { class: "timeline", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    this.labels = make(parent, "div", { class: "timeline-labels muted small", "aria-hidden": "true" });
  }

  /** Draw the counts {end, step_seconds, counts} and the events of that hour. */
  draw(alive, events) {
    const counts = Array.isArray(alive?.counts) ? alive.counts : [];
    const isDrawn = counts.some(isNumber) && isNumber(alive.end) && alive.step_seconds > 0;
    this.node.hidden = !isDrawn;
    if (!isDrawn) return;
    const { end, step_seconds: step } = alive;
    const known = counts.filter(isNumber);
    const highest = Math.max(1, ...known);
    const start = end - HOUR;
    const place = (time) => LEFT + ((time - start) / HOUR) * (WIDTH - LEFT);
    const x = (at) => place(end - (counts.length - at) * step);
    const y = (number) => BOTTOM - (number / highest) * (BOTTOM - TOP);
    this.svg.replaceChildren();
    for (const number of [0, highest]) {
      make(this.svg, "line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y(number), y2: y(number) });
    }
    const line = steps(counts, x, y);
    make(this.svg, "path", { class: "stroke series-0", d: line, "vector-effect": "non-scaling-stroke" });
    for (const event of events.filter(({ kind, time }) => MARKED[kind] && time > start)) {
      const at = place(Math.min(event.time, end));
      make(this.svg, "line", { class: `mark ${MARKED[event.kind]}`, x1: at, x2: at, y1: TOP, y2: HEIGHT - 6, "vector-effect": "non-scaling-stroke" });
    }
    const seconds = counts.length * step;
    const [least, most] = [Math.min(...known), Math.max(...known)];
    setText(this.caption, `${plural(known.at(-1), "worker")} alive; ${least === most ? "no change" : `between ${least} and ${most}`} `
      + `in the last ${duration(Math.min(seconds, HOUR))}. Lines mark workers that vanished, takeovers, outages, releases and pauses.`);
    const marks = [0, 0.25, 0.5, 0.75, 1].map((share) => clock(start + share * HOUR, { hour: "2-digit", minute: "2-digit" }));
    updateChildren(this.labels, marks.map((text, at) => ({ text, at })), ({ at }) => at, () => document.createElement("span"),
      (node, { text }) => setText(node, text));
  }
}
