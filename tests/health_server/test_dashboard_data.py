"""The dashboard of data that are hostile, not understood or not there."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("selenium")

from dashboard_data import JOBS, LETTERS, PARKED, READERS, busy
from dashboards import Page, Worker
from helpers import eventually

HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


def test_hostile_texts_are_text(page: Page, worker: Worker) -> None:
    busy(worker)
    text = HOSTILE

    def poisoned(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: poisoned(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [poisoned(inner) for inner in value]
        return text if isinstance(value, str) and value not in ("live", "ready") else value

    worker.instance_id = text
    worker.checks = {HOSTILE: poisoned(worker.checks["disk"])}
    worker.check_options = {}
    worker.views = {name: poisoned(view) for name, view in worker.views.items()}
    worker.health = {"<b>name</b>": text, **poisoned(worker.health)}
    worker.metrics[HOSTILE] = 1
    worker.sample()
    page.look_at(worker)
    page.shows(text, "#instance")
    page.open_values()
    for css in ("#reasons", "#jobs", "#consumers", "#parked", "#dead_letters", "#checks"):
        page.shows(text, css)
    page.find("#filter")[0].send_keys("<script")
    eventually(lambda: list(page.values()) == [HOSTILE])
    page.find("#figure-rows button")[0].click()
    page.shows(HOSTILE, "#chosen")
    assert page.run("return window.hacked") is None
    assert page.run("return document.querySelectorAll('img, body script').length") == 0


@pytest.mark.parametrize("rows", [3, "many", {"1-0": {}}, [None], [3]])
def test_a_table_that_is_not_understood_leaves_the_others(
    page: Page, worker: Worker, rows: Any
) -> None:
    worker.views = {
        "odd": {"stream": "odd", "parked": rows, "parked_total": rows},
        "readers": {"readers": READERS, "jobs": JOBS},
        "group": {"stream": "jobs", "dead_letters": LETTERS, "parked": PARKED},
    }
    worker.metrics = {"queue_depth": 1}
    worker.sample()
    page.look_at(worker)
    page.shows("This table is not understood.", "#parked")
    assert len(page.rows("#parked")) == len(PARKED)
    assert "3fa91c07" in page.text("#dead_letters")
    assert "get_health_data" in page.text("#checks")
    page.open_values()
    assert page.values() == {"queue_depth": "1"}
    worker.metrics = {"queue_depth": 2}
    asked = len(page.asked("/api/state"))
    eventually(lambda: len(page.asked("/api/state")) >= asked + 2)
    worker.views["odd"] = {"parked": []}
    page.asks_until("No message is parked", "#parked")
    assert "not understood" not in page.text()


def test_a_cell_that_cannot_be_drawn_is_reported_until_it_can(page: Page, worker: Worker) -> None:
    worker.checks = {"odd": True}
    page.look_at(worker)
    page.shows("odd", "#checks")
    page.run(
        """const {fetch} = window;
           window.fetch = async (...request) => {
             const answer = await fetch(...request);
             if (!request[0].includes('state')) return answer;
             const state = await answer.json();
             const odd = {...state.checks[0], name: 'new', reasons: {length: 1}};
             if (!window.fine) state.checks.push(odd);
             return new Response(JSON.stringify(state));
           }"""
    )
    page.asks_until("This table is not understood.", "#checks")
    page.ask_now()
    page.shows("None: neither", "#figures")
    assert page.text("#checks").count("not understood") == 1
    assert len(page.complaints()) == 1
    page.run("window.fine = true")
    page.ask_now()
    assert "not understood" not in page.text("#checks")
    assert len(page.rows("#checks")) == 2


def test_a_server_with_nothing_explains_itself(page: Page, worker: Worker) -> None:
    worker.sample()
    page.look_at(worker)
    page.shows("No queue is shown. A program that only publishes", "#missing")
    page.shows("give HealthServer the get_metrics_data", "#history-note")
    page.shows("None: neither", "#figures")
    page.shows("Nothing is checked", "#reasons")
    assert page.text("#jobs") + page.text("#dead_letters") == ""
    page.picture("empty")


def test_a_program_with_health_data_of_its_own_is_advised_to_add_views(
    page: Page, worker: Worker
) -> None:
    page.look_at(worker)
    each = "server.add_view(name, function) for each of consumer.get_views().items()"
    page.shows(each, "#missing")


def test_a_table_without_rows_does_not_deny_those_that_are_not_shown(
    page: Page, worker: Worker
) -> None:
    of = {"parked": [], "dead_letters": []}
    worker.views = {"group": {**of, "parked_total": 29, "dead_letters_total": 1214}}
    page.look_at(worker)
    page.shows("None of the 29 is shown.", "#parked")
    page.shows("None of the 1,214 is shown.", "#dead_letters")
    assert "No message is parked" not in page.text("#parked")
    assert "No dead letters" not in page.text("#dead_letters")
    worker.views["group"] = {**of, "parked_total": 0, "dead_letters_total": 0}
    page.asks_until("No message is parked", "#parked")
    page.shows("No dead letters", "#dead_letters")


def test_a_queue_with_nothing_in_it_explains_itself(page: Page, worker: Worker) -> None:
    worker.views = {
        "readers": {"readers": [], "jobs": []},
        "group": {"consumers": [], "parked": [], "dead_letters": []},
    }
    page.look_at(worker)
    page.shows("No job is running", "#jobs")
    page.shows("No reader", "#readers")
    page.shows("No consumer", "#consumers")
    page.shows("No message is parked", "#parked")
    page.shows("No dead letters: nothing was given up on", "#dead_letters")
    assert page.text("#missing") == ""
    page.picture("idle")
