// The page of HealthServer: puts its parts together, and draws them after each answer and each second.
//
// All data of the server are shown as text and never as markup: a message id or the text of an error is
// whatever somebody published.

import { whenSignedOut } from "./actions.js";
import { drawCharts, makeCharts } from "./charts.js";
import { makeChecks, renderChecks } from "./checks.js";
import { $, attempt, setText } from "./dom.js";
import { count, duration, formatOf, megabytes, milliseconds, percent, rate } from "./format.js";
import { renderGroups } from "./group.js";
import { history, rates } from "./history.js";
import { makeLetters, renderLetters } from "./letters.js";
import { makePausing, renderPausing } from "./pausing.js";
import { backoff, elapsed, isGone, page, poll, problem, start } from "./polling.js";
import { makeSections, renderSections } from "./queue.js";
import { makeSearch, renderSearch } from "./search.js";
import { announce, renderGone, renderStatus } from "./status.js";
import { makeValues, renderValues } from "./values.js";

const THEMES = ["system", "light", "dark"];

function showTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  setText($("theme"), `Theme: ${theme}`);
}

/** Read or write a key of a storage, which the browser may refuse to the page. */
function stored(storage, key, value) {
  try {
    if (value === undefined) return globalThis[storage].getItem(key);
    globalThis[storage].setItem(key, value);
  } catch { /* then the value is lost with the page */ }
  return value ?? null;
}

/** Draw everything but the charts. */
function render() {
  const gone = isGone();
  $("sign-in").hidden = !page.signedOut;
  // A link sends no token, so the server would refuse it.
  for (const link of document.querySelectorAll("a.guarded")) link.hidden = page.signedOut || page.token !== null;
  $("first").hidden = Boolean(page.state) || gone || page.signedOut;
  $("page").hidden = !page.state || page.signedOut;
  renderGone(gone && !page.signedOut);
  if (page.signedOut) {
    setText($("token-problem"), page.token ? "The server does not accept this token." : "");
    announce("This server asks for a token.");
    return;
  }
  if (gone) announce(`The worker does not answer: ${problem()}.`);
  if (!page.state) return;
  attempt($("status"), "status", () => {
    if (!gone) announce(`Status: ${page.state.status}. ${page.state.reasons.join("; ")}`);
    renderStatus(page.state, gone);
  });
  attempt($("groups"), "answer", () => renderGroups(page.state.views, elapsed()));
  attempt($("acting"), "answer", () => { renderSearch(); renderPausing(); });
  attempt($("letters"), "answer", renderLetters);
  attempt($("sections"), "answer", () => renderSections(page.state.views, elapsed()));
  attempt($("checks"), "table", () => renderChecks(page.state));
  attempt($("figures"), "table", () => renderValues(page.state));
}

function renderCharts() {
  if (page.state) attempt($("charts"), "history", () => drawCharts(page.state, page.historyProblem));
}

function begin() {
  showTheme(THEMES.find((theme) => theme === stored("localStorage", "shared_sync.theme")) ?? "system");
  page.token = stored("sessionStorage", "shared_sync.token");
  $("theme").addEventListener("click", () => {
    const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "system") + 1) % THEMES.length];
    stored("localStorage", "shared_sync.theme", theme);
    showTheme(theme);
  });
  $("try-now").addEventListener("click", () => { poll(); render(); });
  $("sign-in-form").addEventListener("submit", (event) => {
    event.preventDefault();
    page.token = stored("sessionStorage", "shared_sync.token", $("token").value);
    $("token").value = "";
    poll();
  });
  makeCharts(renderCharts);
  makePausing();
  makeSearch();
  makeLetters();
  whenSignedOut(render);
  makeSections();
  makeChecks();
  makeValues(render);
  // Ages and countdowns go on between two answers.
  setInterval(() => { if (!document.hidden) render(); }, 1000);
  start(() => { render(); renderCharts(); });
}

begin();

// For the tests, and for whoever examines a page that misbehaves.
globalThis.dashboard = {
  page, history, poll, backoff, rates, formatOf, count, duration, megabytes, milliseconds, percent, rate,
};
