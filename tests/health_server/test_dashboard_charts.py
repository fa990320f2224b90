"""The charts of the dashboard: history, rates, restarts, clocks."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import pytest

pytest.importorskip("selenium")

from dashboard_data import busy
from dashboards import Page, Worker
from helpers import eventually


def test_the_history_is_fetched_once_and_then_only_what_is_new(page: Page, worker: Worker) -> None:
    worker.past(lambda place: {"queue_depth": place}, 20)
    page.look_at(worker)
    page.shows("19", "#chart-grid .legend")
    worker.metrics["queue_depth"] = 123
    worker.sample()
    page.asks_until("123", "#chart-grid .legend")
    page.ask_now()
    first, *later = [path.rpartition("/")[2] for path in page.asked("/api/history")]
    assert first == "history"
    assert set(later) == {"history?since=20", "history?since=21"}


def test_a_reload_loses_no_history(page: Page, worker: Worker) -> None:
    busy(worker)
    page.look_at(worker)

    def line() -> str:
        lines = "return document.querySelector('.chart:not([hidden]) .plot .stroke')"
        return str(page.run(f"{lines}?.getAttribute('d') ?? ''"))

    eventually(lambda: line().count("L") > 700)
    before = line()
    page.driver.refresh()
    eventually(line)
    assert line() == before


def test_throughput_is_the_growth_per_second(page: Page, worker: Worker) -> None:
    worker.past(lambda place: {"jobs_processed": 6000 * place, "jobs_failed": place}, 30)
    page.look_at(worker)
    page.shows("1.2 k/s", ".chart[aria-label^=Throughput] .legend")
    page.shows("0.2/s", ".chart[aria-label^=Failures] .legend")


def test_expired_cancelled_and_dropped_are_drawn_once_there_are_any(
    page: Page, worker: Worker
) -> None:
    charts = "return [...document.querySelectorAll('.chart:not([hidden])')].map((c) => c.ariaLabel)"
    never = {"jobs_expired": 0, "jobs_cancelled": 0, "replies_dropped": 0, "scheduled": 0}
    worker.past(lambda place: {"jobs_processed": place, "queue_depth": 1, **never}, 30)
    page.look_at(worker)
    page.shows("unfinished", ".chart[aria-label^=Queue] .legend")
    assert not any(label.startswith("Expired, cancelled, dropped") for label in page.run(charts))
    assert "scheduled" not in page.text("#chart-grid")
    worker.replace()
    worker.past(
        lambda place: {
            "queue_depth": 1,
            "jobs_expired": 10 * place,
            "jobs_cancelled": 5 * place,
            "replies_dropped": place,
            "scheduled": 7,
        },
        30,
    )
    page.asks_until("expired", ".chart[aria-label^='Expired, cancelled, dropped'] .legend")
    legend = page.text(".chart[aria-label^='Expired, cancelled, dropped'] .legend").split("\n")
    assert legend[0::2] == ["expired", "cancelled", "results dropped"]
    assert all(rate.endswith("/s") for rate in legend[1::2])
    page.shows("scheduled", ".chart[aria-label^=Queue] .legend")


def test_a_gateway_shows_the_round_trips_of_its_jobs_first(page: Page, worker: Worker) -> None:
    worker.past(
        lambda _: {
            "jobs_sent": 3,
            **{
                f"p{p}_{name}_ms": p
                for name in ("job_round_trip", "encoding")
                for p in (50, 95, 99)
            },
        },
        3,
    )
    page.look_at(worker)
    page.shows("95 ms", ".chart[aria-label^=Latency] .legend")
    choices = "return [...document.querySelectorAll('.chart[aria-label^=Latency] option')]"
    assert page.run(f"{choices}.map((o) => o.value)") == ["job_round_trip", "encoding"]


def test_each_gpu_is_drawn_and_says_which_one_it_is(page: Page, worker: Worker) -> None:
    worker.past(
        lambda place: {
            "gpu_memory_used_mb{gpu=3}": 6000 + place,
            "gpu_process_memory_used_mb{gpu=3}": 5000,
            "gpu_memory_used_mb{gpu=5:1}": 100,
            "gpu_utilization_percent{gpu=3}": 71,
        },
        3,
    )
    worker.metrics["gpu_name{gpu=3}"] = "NVIDIA A100"
    page.look_at(worker)
    page.shows("71 %", ".chart[aria-label^=CPU] .legend")
    legend = "return [...document.querySelectorAll('.chart[aria-label^=Memory] .legend li')]"
    assert page.run(f"{legend}.map((item) => [item.children[1].textContent, item.title])") == [
        ["GPU 3", "NVIDIA A100"],
        ["GPU 5:1", ""],
        ["GPU 3, this worker", "NVIDIA A100"],
    ]


def test_health_serve_shows_what_was_added_and_finished(page: Page, worker: Worker) -> None:
    worker.past(
        lambda place: {
            "consumers_alive": 2,
            "entries_added_total": 50 * place,
            "entries_finished_total": 40 * place,
            "dead_letters": place,
            "jobs_processed": 0,
            "jobs_failed": 0,
        },
        30,
    )
    page.look_at(worker)
    page.shows("8/s", ".chart[aria-label^=Throughput] .legend")
    page.shows("10/s", ".chart[aria-label^=Throughput] .legend")
    page.shows("0.2/s", ".chart[aria-label^=Failures] .legend")
    assert "processed" not in page.text("#chart-grid"), "it processes nothing itself"


def test_round_trips_and_the_loading_of_models_are_not_drawn_as_the_latency_of_jobs(
    page: Page, worker: Worker
) -> None:
    worker.past(
        lambda place: {
            "consumers_alive": 2,
            "queue_depth": place,
            "p50_redis_round_trip_ms": 0.4,
            "p95_redis_round_trip_ms": 0.6,
            "p99_redis_round_trip_ms": 0.9,
            "p50_processor_load_ms": 3_764.0,
        },
        30,
    )
    page.look_at(worker)
    page.shows("29", ".chart[aria-label^=Queue] .legend")
    visible = (
        "return [...document.querySelectorAll('.chart:not([hidden])')].map((c) => c.ariaLabel)"
    )
    assert not any(label.startswith("Latency") for label in page.run(visible))


def test_a_counter_that_falls_is_a_restart_and_no_negative_rate(page: Page, worker: Worker) -> None:
    worker.past(lambda place: {"jobs_processed": place * 10 if place < 20 else place - 20}, 40)
    page.look_at(worker)
    page.shows("0.2/s", ".chart .legend")
    least = page.run(
        """const {times, columns} = dashboard.history;
           return dashboard.rates(times, columns.get('jobs_processed')).map((r) => r ?? 'gap')"""
    )
    assert least.count("gap") == 2  # the first sample, and the one after the fall
    assert all(rate == "gap" or rate > 0 for rate in least)
    lowest, path = page.run(
        """const chart = document.querySelector('.chart:not([hidden])');
           const floor = [...chart.querySelectorAll('.grid')].map((l) => +l.getAttribute('y1'));
           return [Math.max(...floor.filter((y) => y < 130)),
                   chart.querySelector('.plot .stroke').getAttribute('d')]"""
    )
    heights = [float(point.split()[1]) for point in path.replace("M", "L").split("L")[1:]]
    assert path.count("M") == 2
    assert max(heights) <= lowest


def test_rates_have_gaps_where_something_is_unknown(page: Page, worker: Worker) -> None:
    page.look_at(worker)

    def rates(times: list[float], values: list[float | None], *window: float) -> Any:
        return page.run("return dashboard.rates(...arguments)", times, values, *window)

    assert rates([0, 5, 10, 15], [0, 10, None, 30]) == [None, 2, None, None]
    assert rates([0, 5, 10, 15, 20], [0, 10, 3, 8, 18]) == [None, 2, None, 1, 1.5]
    assert rates([0, 5, 10, 15], [0, 10, 10, 40], 5) == [None, 2, 0, 6]
    assert rates([0, 5, 100, 105], [0, 10, 20, 30], 30, 15) == [None, 2, None, 2]
    assert rates([], []) == []


def test_after_a_restart_the_old_history_stays_and_the_restart_is_marked(
    page: Page, worker: Worker
) -> None:
    worker.past(lambda place: {"queue_depth": 40}, 30)
    page.look_at(worker)
    page.shows("40", ".chart .legend")
    worker.metrics = {"queue_depth": 3}
    worker.replace()
    worker.sample(time.time() + 1)
    page.asks_until("3", ".chart .legend")
    page.shows("restart", ".chart svg")
    assert page.run("return dashboard.history.columns.get('queue_depth').length") == 31


def test_a_clock_that_is_set_back_does_not_stop_the_charts(page: Page, worker: Worker) -> None:
    def grow() -> bool:
        times = page.run("return dashboard.history.times")
        return len(times) > 1 and all(after > before for before, after in pairwise(times))

    worker.past(lambda place: {"queue_depth": 40}, 30)
    page.look_at(worker)
    page.shows("40", ".chart .legend")
    worker.metrics = {"queue_depth": 123}
    worker.sample(time.time() - 600)
    page.asks_until("123", ".chart .legend")
    page.shows("clock set back", ".chart svg")
    assert page.run("return dashboard.history.times.length") == 31
    assert page.run("return dashboard.history.columns.get('queue_depth').length") == 31
    assert grow()
    page.driver.refresh()
    page.shows("123", ".chart .legend")
    page.shows("clock set back", ".chart svg")
    assert grow()
    worker.metrics = {"queue_depth": 7}
    worker.replace()
    worker.sample(time.time() - 1200)
    page.asks_until("7", ".chart .legend b")
    page.shows("restart", ".chart svg")
    assert page.run("return dashboard.history.times.length") == 32
    assert grow()


def test_the_first_minutes_of_a_worker_fill_its_charts(page: Page, worker: Worker) -> None:
    worker.past(lambda place: {"queue_depth": place}, 25)
    page.look_at(worker)
    page.shows("24", ".chart .legend")

    def first() -> float:
        """Where the line begins, from 0 to 1."""
        return float(
            page.run(
                """const chart = document.querySelector('.chart:not([hidden])');
                   const from = chart.querySelector('.plot .stroke').getAttribute('d');
                   return parseFloat(from.slice(1)) / chart.querySelector('.plot').clientWidth"""
            )
        )

    assert first() < 0.2
    page.find("#ranges button")[0].click()
    assert first() > 0.5, "who chooses 5 min sees 5 min"


def test_one_bad_answer_of_the_history_does_not_make_the_worker_gone(
    page: Page, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.history, "read", lambda *_: {})
    page.look_at(worker)
    page.shows("History could not be read: its answer is not understood.", "#history-note")
    assert page.text("#gone") == ""
    monkeypatch.undo()
    worker.past(lambda place: {"queue_depth": 4}, 3)
    page.ask_now()
    page.shows("4", ".chart .legend")
