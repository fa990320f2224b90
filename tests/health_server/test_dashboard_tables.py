"""The tables of the dashboard: jobs, readers, the group, checks, and all values."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("selenium")

from dashboard_data import PARKED, TIMES, busy, job, letter
from dashboards import Page, Worker
from helpers import Gate, eventually
from selenium.webdriver import ActionChains

from shared_sync.health_server import state as health_server_state
from shared_sync.health_server import views as health_server_views


def test_values_are_written_in_full_in_their_table(page: Page, worker: Worker) -> None:
    worker.health = {"consumer_state": "running"}
    worker.metrics = {"jobs_processed": 1234567, "audio": 12345.678, "errors": {"ValueError": 3}}
    page.look_at(worker)
    page.open_values()
    assert page.values() == {
        "audio": "12,345.678",
        "consumer_state": "running",
        "errors.ValueError": "3",
        "jobs_processed": "1,234,567",
    }


def test_numbers_are_written_for_people(page: Page, worker: Worker) -> None:
    page.look_at(worker)
    expected = {
        ("rate", 1234.0): "1.23 k/s",
        ("rate", 0.25): "0.25/s",
        ("count", 999.9): "1 k",
        ("count", 0): "0",
        ("milliseconds", 350): "350 ms",
        ("milliseconds", 2500): "2.5 s",
        ("duration", 133): "2 min 13 s",
        ("duration", 59.7): "1 min",
        ("duration", 3599.9): "1 h",
        ("duration", 90_000): "1 d 1 h",
        ("megabytes", 512): "512 MB",
        ("megabytes", 1536): "1.5 GB",
        ("percent", 164): "164 %",
        ("duration", None): "\N{EN DASH}",
    }
    shown = {
        (name, number): page.run("return dashboard[arguments[0]](arguments[1])", name, number)
        for name, number in expected
    }
    assert shown == expected
    units = {
        "p95_x_ms{language=en}": "1.5 s",
        "gpu_memory_used_mb{gpu=0}": "1.46 GB",
        "jobs_per_second": "1.5 k/s",
        "uptime_seconds": "25 min",
        "jobs": "1,500",
    }
    assert units == {
        name: page.run("return dashboard.formatOf(arguments[0])(1500)", name) for name in units
    }


def test_a_job_that_becomes_late_is_marked_by_word_and_colour(page: Page, worker: Worker) -> None:
    readers = [{"name": "r1", "state": "running", "seconds": 3.0}]
    worker.views = {"readers": {"readers": readers, "jobs": [job(1), job(2)]}}
    page.look_at(worker)
    page.shows("stt-1-reader-1", "#jobs")
    assert "late" not in page.text("#jobs") + page.text("#readers")
    late = [{**readers[0], "state": "late"}]
    jobs = [job(2), job(1, "late", age_seconds=71.0)]
    worker.views = {"readers": {"readers": late, "jobs": jobs}}
    page.asks_until("late", "#jobs .badge")
    page.shows("1 late", "#readers")
    oldest = page.rows("#jobs")[0]
    assert oldest[0] == "late"
    assert oldest[4].startswith("1 min 1")
    assert oldest[5] == "1 min"
    colours = page.run(
        """return [...document.querySelectorAll('#jobs .badge')]
             .map((badge) => getComputedStyle(badge).color)"""
    )
    assert colours[0] != colours[1]


def test_circuit_breakers_are_shown_if_there_are_any(page: Page, worker: Worker) -> None:
    readers = [{"name": "r1", "state": "paused", "seconds": 3.0}]
    jobs = {"readers": readers, "jobs": []}
    worker.views = {"readers": jobs}
    page.look_at(worker)
    page.shows("1 paused", "#readers")
    assert page.run("return document.querySelector('#circuit_breakers').hidden")
    facts = {"failures": 5, "openings": 2, "refused": 1234}
    worker.views = {
        "readers": {
            **jobs,
            "circuit_breakers": [
                {"name": "translator", "state": "open", "trial_in_seconds": 3600.0, **facts},
                {"name": "storage", "state": "half-open", "trial_in_seconds": 0.0, **facts},
                {"name": "mail", "state": "closed", "trial_in_seconds": None, **facts},
            ],
        }
    }
    page.asks_until("translator", "#circuit_breakers")
    page.shows("3 \N{MIDDLE DOT} 1 open \N{MIDDLE DOT} 1 half-open", "#circuit_breakers")
    rows = page.rows("#circuit_breakers")
    assert [row[:2] for row in rows] == [
        ["open", "translator"],
        ["half-open", "storage"],
        ["closed", "mail"],
    ]
    assert rows[0][2] in ("in 1 h", "in 59 min 59 s", "in 59 min 58 s")
    assert [row[2] for row in rows[1:]] == ["due now", "\N{EN DASH}"]
    assert rows[0][3:] == ["5", "2", "1,234"]


def test_batches_show_their_size_and_what_they_cost(page: Page, worker: Worker) -> None:
    batches = {"reader": "r1", "runs": 1204, "extra_runs": 0, "mean_size": None, "ceiling": 16}
    worker.views = {"readers": {"batches": [{**batches, "base_ms": None, "message_ms": None}]}}
    page.look_at(worker)
    page.shows("1,204", "#batches")
    assert page.rows("#batches") == [
        ["r1", "1,204", "0", "\N{EN DASH}", "16", "\N{EN DASH}", "\N{EN DASH}"]
    ]
    known = {**batches, "mean_size": 13.4, "ceiling": 8, "base_ms": 20.1, "message_ms": 1.04}
    worker.views = {"readers": {"batches": [known]}}
    page.asks_until("20.1 ms", "#batches")
    assert page.rows("#batches")[0][3:] == ["13.4", "8", "20.1 ms", "+ 1.04 ms"]


def test_consumers_parked_messages_and_dead_letters_are_all_there(
    page: Page, worker: Worker
) -> None:
    busy(worker)
    page.look_at(worker)
    page.shows("stt-1", "#consumers")
    consumers = page.rows("#consumers")
    assert [row[:2] for row in consumers] == [
        ["stt-1", "alive"],
        ["stt-2", "gone"],
        ["import-script", "no heartbeat"],
    ]
    assert consumers[0][2] in ("19 s", "20 s", "21 s")
    assert consumers[0][5] == "gpu-7 pid 4711"
    assert page.rows("#parked")[0][1] == "due now"
    assert "3 of 29 shown" in page.text("#parked")
    assert "5 of 214 shown · 2 causes" in page.text("#dead_letters")
    newest = page.text("#dead_letters .causes > details:first-child")
    for word in (f"{TIMES} 4", "ValueError", "failed 5 times", "3fa91c07", "5 attempts", "1 min 1"):
        assert word in newest
    page.find("#dead_letters summary")[0].click()
    assert len(page.rows("#dead_letters .causes > details:first-child")) == 4
    page.shows("no RIFF header", "#dead_letters")


def cause(fingerprint: str, letters: int, seconds_ago: float, **facts: Any) -> dict[str, Any]:
    return {
        "fingerprint": fingerprint,
        "letters": letters,
        "error_type": "ValueError",
        "reasons": ["failed 5 times"],
        "attempts": 5,
        "seconds_ago": seconds_ago,
        **facts,
    }


def test_causes_are_those_of_all_letters_and_not_of_the_shown_ones(
    page: Page, worker: Worker
) -> None:
    group = {
        "dead_letters": [letter(1, "aaaaaaaa"), letter(2, "aaaaaaaa")],
        "dead_letters_total": 1214,
        "dead_letters_counted": 1000,
        "dead_letter_causes": [cause("aaaaaaaa", 990, 73.0), cause("bbbbbbbb", 10, 500.0)],
        "dead_letter_causes_total": 2,
    }
    worker.views = {"group": group}
    page.look_at(worker)
    page.shows("2 of 1,214 shown · 2 causes of the newest 1,000", "#dead_letters")
    page.shows(f"{TIMES} 990", "#dead_letters .causes > details:first-child")
    page.shows(f"{TIMES} 10", "#dead_letters .causes > details:last-child")
    for summary in page.find("#dead_letters summary"):
        summary.click()
    page.shows("The newest 2 of 990 are shown.", "#dead_letters .causes > details:first-child")
    assert len(page.rows("#dead_letters")) == 2
    page.shows("none of them has this cause", "#dead_letters .causes > details:last-child")


def test_causes_keep_their_places_while_somebody_reads(page: Page, worker: Worker) -> None:
    def show(*causes: dict[str, Any]) -> None:
        letters = [letter(n, one["fingerprint"]) for n, one in enumerate(causes)]
        worker.views = {"group": {"dead_letters": letters, "dead_letter_causes": list(causes)}}

    def places() -> list[str]:
        return re.findall(r"\b([a-z])\1{7}\b", page.text("#dead_letters .causes summary code"))

    show(cause("aaaaaaaa", 3, 10.0), cause("bbbbbbbb", 2, 20.0))
    page.look_at(worker)
    page.shows("bbbbbbbb", "#dead_letters")
    assert places() == ["a", "b"]
    page.find("#dead_letters summary")[1].click()
    show(cause("cccccccc", 1, 0.5), cause("bbbbbbbb", 9, 1.0), cause("aaaaaaaa", 3, 12.0))
    page.asks_until(f"{TIMES} 9", "#dead_letters")
    assert places() == ["a", "b", "c"]
    opened = "return document.querySelector('#dead_letters details[open] code').innerText"
    assert page.run(opened) == "bbbbbbbb"
    show(cause("cccccccc", 1, 2.5), cause("bbbbbbbb", 9, 3.0))
    page.asks_until("2 causes", "#dead_letters")
    assert places() == ["b", "c"]
    page.find("#dead_letters summary")[0].click()  # folds it; pointer and focus are still there
    page.ask_now()
    assert places() == ["b", "c"]
    ActionChains(page.driver).move_to_element(page.find("#instance")[0]).click().perform()
    page.ask_now()
    assert places() == ["c", "b"], "whoever has stopped reading sees the newest first"


def test_tables_of_an_earlier_visit_are_marked_until_the_new_ones_are_there(
    page: Page, worker: Worker, hold: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy(worker)
    worker.start()
    eventually(lambda: worker.api()["views"]["group"]["data"])
    group = worker.views["group"]
    worker.views["group"] = hold
    original = health_server_views.age
    monkeypatch.setattr(
        health_server_views, "age", lambda at: None if at is None else original(at) + 3600
    )
    page.open(worker.url)
    page.shows("As of 1 h ago: new ones are on their way.", "#consumers")
    assert page.rows("#consumers")[0][2] == "21 s", "its lease is not counted down from then"
    monkeypatch.undo()
    worker.views["group"] = group
    hold.opened.set()
    page.asks_until("stt-2", "#consumers")
    eventually(lambda: "on their way" not in page.text("#consumers"))


def test_a_consumer_that_died_stays_in_the_table_with_the_time(page: Page, worker: Worker) -> None:
    alive = {"name": "stt-1", "present": True, "lease_seconds_left": 21.3, "pending": 0}
    gone = {
        "name": "stt-2",
        "present": False,
        "gone_seconds": 600.0,
        "lease_seconds_left": 0.0,
        "pending": 0,
        "idle_seconds": 700.0,
        "host": "gpu-8",
        "pid": 81,
    }
    worker.views = {"group": {"consumers": [alive], "consumers_total": 1, "consumers_gone": [gone]}}
    page.look_at(worker)
    page.shows("gone for 10 min", "#consumers")
    assert [row[0] for row in page.rows("#consumers")] == ["stt-1", "stt-2"]
    assert page.text("#consumers .note") == "2 · 1 gone"
    assert page.rows("#consumers")[1][2] == "\N{EN DASH}", "a dead one has no lease"


def test_the_next_time_of_a_parked_message_counts_down(
    page: Page, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_server_state, "VIEW_PERIOD_SECONDS", 60.0)  # it is called only once
    worker.views = {"group": {"parked": [{**PARKED[2], "due_in_seconds": 9.0}]}}

    def seconds_shown() -> int:
        found = re.search(r"in (\d+) s\b", page.text("#parked"))
        return int(found.group(1)) if found else 0

    page.look_at(worker)
    eventually(lambda: 0 < seconds_shown() < 9)
    first = seconds_shown()
    eventually(lambda: seconds_shown() < first)
    page.shows("due now", "#parked")


def test_the_last_data_of_a_view_that_fails_stay_with_their_age(
    page: Page, worker: Worker, hold: Gate
) -> None:
    def fail() -> None:
        raise OSError("no route to Redis")

    busy(worker)
    worker.views["lost"] = fail
    page.look_at(worker)
    page.shows("stt-2", "#consumers")
    lost = "No data of lost: the view failed: OSError: no route to Redis."
    assert lost in page.text("#missing")
    group = worker.views["group"]
    worker.views["group"] = hold
    page.asks_until("ago: the view timed out after 0.5 s.", "#parked")
    worker.views["group"] = group
    hold.opened.set()
    page.asks_until("stt-2", "#consumers")
    worker.views["group"] = fail
    page.asks_until("ago: the view failed", "#consumers")
    assert "stt-2" in page.text("#consumers")
    assert "1767225591000-0" in page.text("#parked")


def test_a_missing_right_is_named_beside_the_tables(page: Page, worker: Worker) -> None:
    worker.views = {
        "readers": {"readers": [], "jobs": []},
        "group": {
            "dead_letters": [],
            "reasons": ["consumers are not shown: grant this Redis user +xinfo|consumers"],
        },
    }
    page.look_at(worker)
    page.shows("No dead letters", "#dead_letters")
    grant = "Consumers are not shown: grant this Redis user +xinfo|consumers."
    assert page.text("#missing") == grant


def test_of_a_long_table_the_first_rows_are_shown_and_the_rest_when_asked_for(
    page: Page, worker: Worker
) -> None:
    readers = [{"name": f"r{n}", "state": "waiting", "seconds": 1.0} for n in range(1, 41)]
    readers[30]["state"] = "stalled"
    parked = [{**PARKED[0], "message_id": f"{n}-0"} for n in range(50)]
    worker.views = {"readers": {"readers": readers}, "group": {"parked": parked}}
    page.look_at(worker)
    page.shows("Show all 50", "#parked")
    assert len(page.rows("#parked")) == 10
    page.find("#parked .more")[0].click()
    assert len(page.rows("#parked")) == 50
    page.ask_now()
    assert len(page.rows("#parked")) == 50
    page.find("#parked .more")[0].click()
    assert len(page.rows("#parked")) == 10
    assert page.text("#readers li").startswith("r31"), "what is wrong is not among the rest"
    assert "40 · 1 stalled" in page.text("#readers .note")


def test_a_program_with_two_consumers_shows_the_jobs_of_each(page: Page, worker: Worker) -> None:
    worker.views = {
        "stt": {"stream": "audio:jobs", "group": "stt", "jobs": [job(1)]},
        "gateway": {"stream": "results", "group": "gateway", "jobs": []},
    }
    page.look_at(worker)
    page.shows("audio:jobs · stt", "#jobs")
    page.shows("results · gateway", "#jobs")
    page.shows("No job is running", "#jobs")


def test_checks_show_their_status_age_and_what_is_running(
    page: Page, worker: Worker, hold: Gate
) -> None:
    def broken() -> None:
        raise OSError("cannot read /etc/model.toml")

    worker.options = {"details": True}
    limit = {"figure": "error_rate", "value": 0, "above": 0.2, "below": None, "for_seconds": 60}
    worker.checks = {
        "fine": {"free_mb": 2048, "alerts": [limit]},
        "hangs": hold,
        "first": hold,
        "broken": broken,
    }
    worker.check_options = {
        "hangs": {"timeout_seconds": 0.2},
        "first": {"timeout_seconds": 60, "critical": False},
    }
    page.look_at(worker)
    page.shows("hangs timed out after 0.2 s", "#checks")
    rows = {row[0]: row for row in page.rows("#checks")}
    assert set(list(rows)[:2]) == {"hangs", "broken"}, "what is wrong comes first"
    assert rows["hangs"][1:3] == ["unhealthy", "critical"]
    assert "Running for" in rows["hangs"][5]
    assert rows["first"][1:3] == ["first run", "not critical"]
    assert "Running for" in rows["first"][5]
    assert rows["fine"][5] == "free_mb 2 GB · alerts if error_rate above 20 % for 1 min"
    assert "broken failed" in rows["broken"][5]
    assert "OSError: cannot read /etc/model.toml" in rows["broken"][5]


def test_all_values_can_be_filtered_and_drawn(page: Page, worker: Worker) -> None:
    busy(worker)
    page.look_at(worker)
    page.open_values()
    assert page.values()["errors.TimeoutError"] == "11"
    page.find("#filter")[0].send_keys("TEMPERATURE")
    eventually(lambda: list(page.values()) == ["gpu_temperature_celsius{gpu=0}"])
    assert "1 of " in page.text("#figures-count")
    page.find("#filter")[0].clear()
    page.find("#filter")[0].send_keys("uptime")
    eventually(lambda: list(page.values()) == ["uptime_seconds"])
    page.find("#figure-rows button")[0].click()
    page.shows("1 d", "#chosen .legend")
    assert page.run("return document.querySelector('#chosen .plot .stroke').getAttribute('d')")
    page.find("#figure-rows button")[0].click()
    assert page.text("#chosen") == ""
