"""The dashboard of a worker that does not answer, or asks for a token."""

from __future__ import annotations

import pytest

pytest.importorskip("selenium")

from dashboard_data import busy
from dashboards import Page, Worker, too_faint
from helpers import eventually
from selenium.webdriver import Keys


def test_the_page_says_that_the_worker_does_not_answer_and_comes_back_by_itself(
    page: Page, worker: Worker
) -> None:
    busy(worker)
    page.look_at(worker)
    page.shows("Degraded", "#status")
    worker.stop()
    page.shows("The worker does not answer", "#gone")
    page.shows("Last answer at", "#gone")
    page.shows("Next attempt in", "#gone")
    assert "Last known: degraded" in page.text("#status")
    assert "1767225600122-0" in page.text("#jobs")
    assert page.driver.title == "No answer: stt-1"
    assert "does not answer" in page.run(
        "return document.querySelector('[aria-live=polite]').textContent"
    )
    page.picture("worker-gone")
    assert too_faint(page) == []
    worker.health |= {"status": "healthy", "reasons": []}
    worker.checks["disk"] = True
    worker.start()
    page.shows("Healthy", "#status", within=30)
    assert page.text("#gone") == ""
    assert page.driver.title == "Healthy: stt-1"


def test_an_old_state_is_marked_as_old_whatever_the_cause(page: Page, worker: Worker) -> None:
    page.look_at(worker)
    page.shows("Healthy", "#status")
    page.run(
        """clearTimeout(dashboard.page.timer);
           dashboard.page.at -= 11"""
    )
    page.shows("The worker does not answer", "#gone")
    page.shows("no newer answer has arrived", "#gone")
    assert "Last known: healthy" in page.text("#status")
    page.find("#try-now")[0].click()
    page.shows("Healthy", "#status")
    assert page.text("#gone") == ""


def test_the_page_asks_on_though_it_cannot_draw(page: Page, worker: Worker) -> None:
    page.look_at(worker)
    page.shows("Healthy", "#status")
    page.run("document.querySelector('#gone').remove()")
    asked = len(page.asked("/api/state"))
    eventually(lambda: len(page.asked("/api/state")) >= asked + 3)
    page.open(f"{worker.url}health/live")
    assert page.complaints() != []


def test_try_now_asks_at_once(page: Page, worker: Worker) -> None:
    page.look_at(worker)
    page.shows("Healthy", "#status")
    worker.stop()
    page.shows("Next attempt in", "#gone")
    page.run("clearTimeout(dashboard.page.timer)")  # so that it would not ask by itself
    worker.start()
    page.find("#try-now")[0].click()
    page.shows("Healthy", "#status")


def test_attempts_become_rarer_and_differ_by_chance(page: Page, worker: Worker) -> None:
    page.look_at(worker)

    def seconds(failures: int, chance: float) -> float:
        return float(page.run("return dashboard.backoff(...arguments)", failures, chance))

    middle = [seconds(failures, 0.5) for failures in range(1, 12)]
    assert middle[0] == 2
    assert middle == sorted(middle)
    assert middle[-1] == 15
    assert seconds(1, 0) < 2 < seconds(1, 1)


def test_a_hidden_page_does_not_ask(page: Page, worker: Worker) -> None:
    page.look_at(worker)
    page.shows("Healthy", "#status")
    page.run(
        """window.planned = [];
           window.setTimeout = (act, ms) => { planned.push(ms); return 0; };
           Object.defineProperty(document, 'hidden', {get: () => window.away, configurable: true});
           window.away = true;
           document.dispatchEvent(new Event('visibilitychange'))"""
    )
    page.ask_now()
    assert page.run("return planned") == []
    asked = len(page.asked("/api/state"))
    page.run("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
    eventually(lambda: page.run("return planned.length"))
    eventually(lambda: len(page.asked("/api/state")) > asked)
    assert page.run("return planned") == [2000]


def test_the_token_is_asked_for_and_kept_in_the_tab(page: Page, worker: Worker) -> None:
    worker.options = {"token": "s3cret"}
    page.look_at(worker)
    page.shows("This server asks for the token", "#sign-in")
    page.find("#token")[0].send_keys("wrong", Keys.ENTER)
    page.shows("does not accept this token", "#sign-in")
    page.picture("sign-in")
    page.find("#token")[0].send_keys("s3cret", Keys.ENTER)
    page.shows("Healthy", "#status")
    assert page.text("#sign-in") == ""
    page.driver.refresh()
    page.shows("Healthy", "#status")
    assert page.asked("s3cret") == []
    assert "metrics" not in page.text("footer"), "a link would bring no token"
    assert "ready" in page.text("footer")
    assert "s3cret" not in page.driver.current_url
    assert page.run("return Object.values(localStorage)") == []
    assert all("401" in text for text in page.complaints())
