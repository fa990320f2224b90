// Pausing and resuming the group: who has paused it, since when and why.

import { act, actsOn, viewOfGroup } from "./actions.js";
import { ask } from "./ask.js";
import { $, make, setText } from "./dom.js";
import { duration } from "./format.js";
import { isGone, now } from "./polling.js";

const SOON_SECONDS = 5; // until a view must have noticed what was done here

let said = { at: -Infinity, paused: null };
let text;
let pause;
let resume;

/** Make the buttons. */
export function makePausing() {
  const bar = make($("acting"), "div", { class: "pausing" });
  make($("acting"), "p", { id: "acting-said", class: "muted", role: "status" });
  text = make(bar, "p", { id: "paused" });
  pause = make(bar, "button", { type: "button" }, "Pause …");
  resume = make(bar, "button", { type: "button" }, "Resume …");
  pause.addEventListener("click", () => ask({
    title: "Pause the group?",
    lines: [nameOf(), "Its consumers finish what runs and take no further messages until somebody resumes the group. They stay alive and ready, and messages wait in the stream."],
    label: "Pause",
    reason: true,
  }, ({ by, reason }) => change("pause", { by, reason }), finish));
  resume.addEventListener("click", () => ask({
    title: "Resume the group?",
    lines: [nameOf(), text.textContent, "Its consumers take messages again, within a heartbeat."],
    label: "Resume",
  }, ({ by }) => change("resume", { by }), finish));
}

const nameOf = () => `${actsOn().stream} · ${actsOn().group}`;

async function change(name, body) {
  const { paused, was_paused: was } = await act(name, body);
  said = { at: now(), paused: paused && { ...paused, seconds: Date.now() / 1000 - paused.at } };
  if (name === "pause") return was ? `It was paused already, by ${paused.by}.` : "The group is paused.";
  return was ? "The group takes messages again." : "It was not paused.";
}

function finish(sentence) {
  renderPausing();
  setText($("acting-said"), sentence);
  if (document.activeElement === document.body) (pause.hidden ? resume : pause).focus();
}

/** Who has paused the group; null if nobody has, undefined if that is not known. */
function pausedNow() {
  const age = now() - said.at;
  if (age < SOON_SECONDS) return said.paused && { ...said.paused, seconds: said.paused.seconds + age };
  return viewOfGroup()?.status?.paused;
}

/** Draw the state and the button that changes it; both buttons if the state is not known. */
export function renderPausing() {
  if (actsOn() === null) return;
  const paused = pausedNow();
  const since = paused ? `for ${duration(Math.max(1, Math.floor(paused.seconds)))}` : "";
  setText(text, paused ? `Paused by ${paused.by} ${since}${paused.reason ? `: ${paused.reason}` : ""}` : paused === null ? "Takes messages" : "Whether it is paused is not known.");
  pause.hidden = Boolean(paused);
  resume.hidden = paused === null;
  resume.className = paused ? "primary" : "";
  pause.disabled = isGone();
  resume.disabled = isGone();
}
