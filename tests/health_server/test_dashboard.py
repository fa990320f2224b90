"""The dashboard in a real browser: what an operator sees, hears and can do."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

pytest.importorskip("selenium")

from dashboards import Page, Worker
from helpers import Gate, eventually
from selenium.webdriver import ActionChains, Keys

from shared_sync.health_server import state as health_server_state

TIMES = "\N{MULTIPLICATION SIGN}"
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A worker that is not started yet, and calls its views whenever the page asks."""
    monkeypatch.setattr(health_server_state, "VIEW_PERIOD_SECONDS", 0.0)
    made = Worker()
    yield made
    made.stop()


@pytest.fixture
def hold(worker: Worker) -> Iterator[Gate]:
    """A check or view that hangs until it is opened, or until the end of the test."""
    made = Gate()
    yield made
    made.opened.set()


# --- workers -----------------------------------------------------------------------------------


def wave(place: int, length: float) -> float:
    return math.sin(place / length) + 0.35 * math.sin(place / length * 3.7 + 1)


def busy(worker: Worker) -> None:
    """An hour of a speech worker's life, with a bad quarter of an hour."""
    processed = failed = dead = 0.0

    def figures(place: int) -> dict[str, float | None]:
        nonlocal processed, failed, dead
        trouble = 480 <= place < 620
        processed += (42 + 9 * wave(place, 60) - (18 if trouble else 0)) * 5
        failed += (0.4 + 0.3 * wave(place, 25) + (6 if trouble else 0)) * 5
        dead += 1 if trouble and place % 12 == 0 else 0
        latency = 210 + 30 * wave(place, 40) + (340 if trouble else 0)
        return {
            "jobs_processed": round(processed),
            "jobs_failed": round(failed),
            "jobs_dead": dead,
            "p50_processing_latency_ms": round(latency, 1),
            "p95_processing_latency_ms": round(latency * 2.3 + 20 * wave(place, 9), 1),
            "p99_processing_latency_ms": round(latency * 3.4 + 60 * wave(place, 7), 1),
            "queue_depth": max(0, round(120 + 60 * wave(place, 90) + max(0, place - 480) * 2.4)),
            "queue_waiting": max(0, round(90 + 60 * wave(place, 90) + max(0, place - 480) * 2.2)),
            "jobs_parked": 12 + (place - 480) // 8 if trouble else 12,
            "memory_usage_mb": round(1210 + 160 * wave(place, 130) + place * 0.2, 1),
            "cpu_percent": round(164 + 40 * wave(place, 22), 1),
            "gpu_utilization_percent{gpu=0}": round(min(100, 71 + 18 * wave(place, 31)), 1),
            "gpu_memory_used_mb{gpu=0}": 5120 + round(60 * wave(place, 50)),
            "uptime_seconds": 86_400 + place * 5,
        }

    worker.past(figures)
    worker.metrics |= {
        "errors": {"ValueError": 3, "TimeoutError": 11},
        "error_rate": 0.0123,
        "window_seconds": 60.0,
        "gpu_temperature_celsius{gpu=0}": 71,
    }
    worker.health = {
        "status": "degraded",
        "reasons": ["reader stt-1-reader-2 runs message 1767225600122-0 for 133 s, not 60 s"],
        "live": True,
        "redis_connected": True,
        "consumer_state": "running",
        "jobs_in_flight": 3,
        "queue_depth": worker.metrics["queue_depth"],
        "longest_job_seconds": 133.2,
    }
    worker.checks = {
        "model": {"model_loaded": True, "warm_up_seconds": 12.4},
        "disk": {"status": "degraded", "reasons": ["only 4 % of the disk are free"]},
    }
    worker.check_options = {
        "model": {"startup": True, "timeout_seconds": 0.2},
        "disk": {"critical": False, "readiness": True},
    }
    worker.options = {"details": True}
    of = {"stream": "audio:jobs", "group": "stt-workers"}
    worker.views = {
        "readers": {**of, "readers": READERS, "jobs": JOBS},
        "group": {
            **of,
            "consumers": CONSUMERS,
            "consumers_total": 3,
            "parked": PARKED,
            "parked_total": 29,
            "dead_letters": LETTERS,
            "dead_letters_total": 214,
        },
    }


def job(number: int, state: str = "running", **facts: Any) -> dict[str, Any]:
    return {
        "reader": f"stt-1-reader-{number}",
        "message_id": f"176722560012{number}-0",
        "attempt": 1,
        "age_seconds": 2.0 * number,
        "budget_seconds": 60.0,
        "limit_seconds": 90.0,
        "state": state,
        **facts,
    }


def letter(number: int, fingerprint: str = "3fa91c07", **facts: Any) -> dict[str, Any]:
    return {
        "id": f"17672256{number:05}-0",
        "message_id": f"17672251{number:05}-0",
        "reason": "failed 5 times",
        "error_type": "ValueError",
        "fingerprint": fingerprint,
        "attempts": 5,
        "seconds_ago": 73.0 * number,
        "details": "cannot read 7 bytes of audio: no RIFF header",
        **facts,
    }


READERS = [
    {"name": "stt-1-reader-1", "state": "running", "seconds": 2.2},
    {"name": "stt-1-reader-2", "state": "late", "seconds": 133.2},
    {"name": "stt-1-reader-3", "state": "running", "seconds": 14.0},
    {"name": "stt-1-reader-4", "state": "waiting", "seconds": 0.7},
]
JOBS = [job(1), job(2, "late", age_seconds=133.2, attempt=2), job(3, budget_seconds=None)]
CONSUMERS = [
    {
        "name": "stt-1",
        "present": True,
        "lease_seconds_left": 21.3,
        "pending": 3,
        "idle_seconds": 0.4,
        "host": "gpu-7",
        "pid": 4711,
    },
    {
        "name": "stt-2",
        "present": False,
        "lease_seconds_left": None,
        "pending": 2,
        "idle_seconds": 94.0,
        "host": "gpu-8",
        "pid": 81,
    },
    {
        "name": "import-script",
        "present": None,
        "lease_seconds_left": None,
        "pending": 0,
        "idle_seconds": 5400.0,
        "host": None,
        "pid": None,
    },
]
PARKED = [
    {
        "message_id": f"176722559{number}000-0",
        "due_in_seconds": 14.0 * number - 14,
        "failures": 2,
        "error_type": "TimeoutError",
        "details": "no answer of the model within 30 s",
    }
    for number in range(1, 4)
]
LETTERS = [
    *(letter(number) for number in range(1, 5)),
    letter(9, "b1e77d20", error_type="", reason="crashed 3 times", attempts=3, details=""),
]


# --- figures -----------------------------------------------------------------------------------


def test_figures_are_written_in_full_in_their_table(page: Page, worker: Worker) -> None:
    worker.health = {"consumer_state": "running"}
    worker.metrics = {"jobs_processed": 1234567, "audio": 12345.678, "errors": {"ValueError": 3}}
    page.look_at(worker)
    page.open_figures()
    assert page.figures() == {
        "audio": "12,345.678",
        "consumer_state": "running",
        "errors.ValueError": "3",
        "jobs_processed": "1,234,567",
    }


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


def test_the_outside_watcher_shows_what_was_added_and_finished(page: Page, worker: Worker) -> None:
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


def test_a_counter_that_falls_is_a_restart_and_no_negative_rate(page: Page, worker: Worker) -> None:
    worker.past(lambda place: {"jobs_processed": place * 10 if place < 20 else place - 20}, 40)
    page.look_at(worker)
    page.shows("0.2/s", ".chart .legend")
    least = page.run(
        """const {times, figures} = dashboard.history;
           return dashboard.rates(times, figures.get('jobs_processed')).map((r) => r ?? 'gap')"""
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
    assert page.run("return dashboard.history.figures.get('queue_depth').length") == 31


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
    assert page.run("return dashboard.history.figures.get('queue_depth').length") == 31
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


# --- jobs, the group, dead letters -------------------------------------------------------------


def test_a_job_that_becomes_late_is_told_by_word_and_colour(page: Page, worker: Worker) -> None:
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


def test_consumers_parked_messages_and_dead_letters_are_all_there(
    page: Page, worker: Worker
) -> None:
    busy(worker)
    page.look_at(worker)
    page.shows("stt-1", "#consumers")
    consumers = page.rows("#consumers")
    assert [row[:2] for row in consumers] == [
        ["stt-1", "present"],
        ["stt-2", "gone"],
        ["import-script", "not announced"],
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


def test_the_next_time_of_a_parked_message_counts_down(
    page: Page, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_server_state, "VIEW_PERIOD_SECONDS", 60.0)  # it tells only once
    worker.views = {"group": {"parked": [{**PARKED[2], "due_in_seconds": 3.0}]}}
    page.look_at(worker)
    page.shows("in 2 s", "#parked")
    page.shows("in 1 s", "#parked")
    page.shows("due now", "#parked")


def test_what_a_view_cannot_tell_now_stays_with_its_age(
    page: Page, worker: Worker, hold: Gate
) -> None:
    def fail() -> None:
        raise OSError("no route to Redis")

    busy(worker)
    worker.views["lost"] = fail
    page.look_at(worker)
    page.shows("stt-2", "#consumers")
    lost = "No data of lost: asking for it failed: OSError: no route to Redis."
    assert lost in page.text("#missing")
    told = worker.views["group"]
    worker.views["group"] = hold
    page.asks_until("ago: asking for it timed out after 0.5 s.", "#parked")
    worker.views["group"] = told
    hold.opened.set()
    page.asks_until("stt-2", "#consumers")
    worker.views["group"] = fail
    page.asks_until("ago: asking for it failed", "#consumers")
    assert "stt-2" in page.text("#consumers")
    assert "1767225591000-0" in page.text("#parked")


def test_what_the_user_of_redis_may_not_see_is_told_beside_the_tables(
    page: Page, worker: Worker
) -> None:
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


def test_checks_tell_their_state_age_and_what_is_running(
    page: Page, worker: Worker, hold: Gate
) -> None:
    def broken() -> None:
        raise OSError("cannot read /etc/model.toml")

    worker.options = {"details": True}
    worker.checks = {"fine": {"free_mb": 2048}, "hangs": hold, "first": hold, "broken": broken}
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
    assert "free_mb 2 GB" in rows["fine"][5]
    assert "broken failed" in rows["broken"][5]
    assert "OSError: cannot read /etc/model.toml" in rows["broken"][5]


def test_all_figures_can_be_filtered_and_drawn(page: Page, worker: Worker) -> None:
    busy(worker)
    page.look_at(worker)
    page.open_figures()
    assert page.figures()["errors.TimeoutError"] == "11"
    page.find("#filter")[0].send_keys("TEMPERATURE")
    eventually(lambda: list(page.figures()) == ["gpu_temperature_celsius{gpu=0}"])
    assert "1 of " in page.text("#figures-count")
    page.find("#filter")[0].clear()
    page.find("#filter")[0].send_keys("uptime")
    eventually(lambda: list(page.figures()) == ["uptime_seconds"])
    page.find("#figure-rows button")[0].click()
    page.shows("1 d", "#chosen .legend")
    assert page.run("return document.querySelector('#chosen .plot .stroke').getAttribute('d')")
    page.find("#figure-rows button")[0].click()
    assert page.text("#chosen") == ""


# --- a worker that is not there ----------------------------------------------------------------


def test_it_says_that_the_worker_does_not_answer_and_comes_back_by_itself(
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


def test_an_old_state_is_called_so_whatever_keeps_the_next_one_away(
    page: Page, worker: Worker
) -> None:
    page.look_at(worker)
    page.shows("Healthy", "#status")
    page.run(
        """clearTimeout(dashboard.page.timer);
           dashboard.page.at -= 11"""
    )
    page.shows("The worker does not answer", "#gone")
    page.shows("the next one has not come", "#gone")
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


# --- whatever is in the data -------------------------------------------------------------------


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
    page.open_figures()
    for css in ("#reasons", "#jobs", "#consumers", "#parked", "#dead_letters", "#checks"):
        page.shows(text, css)
    page.find("#filter")[0].send_keys("<script")
    eventually(lambda: list(page.figures()) == [HOSTILE])
    page.find("#figure-rows button")[0].click()
    page.shows(HOSTILE, "#chosen")
    assert page.run("return window.hacked") is None
    assert page.run("return document.querySelectorAll('img, body script').length") == 0


@pytest.mark.parametrize("told", [3, "many", {"1-0": {}}, [None], [3]])
def test_a_table_that_is_not_understood_leaves_the_others(
    page: Page, worker: Worker, told: Any
) -> None:
    worker.views = {
        "odd": {"stream": "odd", "parked": told, "parked_total": told},
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
    page.open_figures()
    assert page.figures() == {"queue_depth": "1"}
    worker.metrics = {"queue_depth": 2}
    asked = len(page.asked("/api/state"))
    eventually(lambda: len(page.asked("/api/state")) >= asked + 2)
    worker.views["odd"] = {"parked": []}
    page.asks_until("No message is parked", "#parked")
    assert "not understood" not in page.text()


def test_a_cell_that_cannot_be_drawn_is_told_until_it_can(page: Page, worker: Worker) -> None:
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
    page.shows("This page knows no queue: give HealthServer", "#missing")
    page.shows("give HealthServer the get_metrics_data", "#history-note")
    page.shows("None: neither", "#figures")
    page.shows("Nothing is checked", "#reasons")
    assert page.text("#jobs") + page.text("#dead_letters") == ""
    page.picture("empty")


def test_a_program_with_health_data_of_its_own_is_told_of_the_views(
    page: Page, worker: Worker
) -> None:
    page.look_at(worker)
    each = "server.add_view(name, function) for each of consumer.get_views().items()"
    page.shows(each, "#missing")


def test_nothing_is_said_to_be_none_where_there_are_some(page: Page, worker: Worker) -> None:
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


# --- for every reader --------------------------------------------------------------------------


def too_faint(page: Page) -> list[list[Any]]:
    """The texts seen whose contrast with their ground is below 4.5:1."""
    faint: list[list[Any]] = page.run(
        """
        const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
        const rgba = (colour) => {
          canvas.clearRect(0, 0, 1, 1);
          canvas.fillStyle = colour;
          canvas.fillRect(0, 0, 1, 1);
          return [...canvas.getImageData(0, 0, 1, 1).data];
        };
        const luminance = (colour) => {
          const [r, g, b] = colour.map((c) => c / 255)
            .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ground = (node) => {
          for (; node; node = node.parentElement) {
            const colour = rgba(getComputedStyle(node).backgroundColor);
            if (colour[3] === 255) return colour;
            if (colour[3] !== 0) throw Error('half transparent ground of ' + node.outerHTML);
          }
          throw Error('no ground');
        };
        const faint = [];
        let seen = 0;
        for (const node of document.querySelectorAll('body *')) {
          const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
          if (!own || !node.checkVisibility() || node.matches('.unseen, option')) continue;
          const style = getComputedStyle(node);
          const colour = node instanceof SVGElement ? style.fill : style.color;
          const [a, b] = [luminance(rgba(colour)), luminance(ground(node))].sort((x, y) => y - x);
          const contrast = (a + 0.05) / (b + 0.05);
          seen += 1;
          if (contrast < 4.5) faint.push([node.textContent.trim().slice(0, 40), contrast]);
        }
        if (seen < 60) throw Error('only ' + seen + ' texts');
        return faint;
        """
    )
    return faint


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(
    page: Page, worker: Worker, hold: Gate, scheme: str
) -> None:
    busy(worker)
    page.prefers(scheme)
    page.look_at(worker)
    page.shows("3fa91c07", "#dead_letters")
    page.shows("p99", "#chart-grid")
    page.picture(scheme)
    page.open_figures()
    assert too_faint(page) == []
    page.run("document.querySelector('#figures details').open = false")
    page.size(360, 780, phone=True)
    page.picture(f"phone-{scheme}")
    page.size(1360)
    worker.health |= {"status": "unhealthy", "reasons": ["Redis is away"], "live": False}
    worker.checks["model"] = hold
    page.asks_until("model timed out", "#checks")
    page.shows("Unhealthy", "#status")
    assert too_faint(page) == []
    page.picture(f"unhealthy-{scheme}")


def test_the_theme_can_be_chosen_and_is_kept(page: Page, worker: Worker) -> None:
    page.prefers("dark")
    page.look_at(worker)
    page.shows("Healthy", "#status")

    def ground() -> str:
        return str(page.run("return getComputedStyle(document.body).backgroundColor"))

    dark = ground()
    page.find("#theme")[0].click()
    assert page.text("#theme") == "Theme: light"
    light = ground()
    assert light != dark
    page.driver.refresh()
    page.shows("Healthy", "#status")
    assert ground() == light
    page.find("#theme")[0].click()
    assert ground() == dark


def test_a_phone_needs_no_scrolling_to_the_side(page: Page, worker: Worker) -> None:
    busy(worker)
    long = "x" * 200
    worker.instance_id = long
    worker.health |= {"reasons": [long]}
    worker.views["group"] = dict(worker.views["group"])
    worker.views["group"]["parked"] = [{**PARKED[0], "details": long, "message_id": long}]
    worker.metrics[long] = 1
    page.size(360, 780, phone=True)
    page.look_at(worker)
    page.shows("Degraded", "#status")
    page.open_figures()
    page.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    page.shows(f"{TIMES} 4", "#dead_letters")
    widths = page.run(
        """return [document.documentElement.scrollWidth, innerWidth,
                   ...[...document.querySelectorAll('main *')]
                     .filter((n) => n.checkVisibility() && !n.closest('svg, .unseen, thead'))
                     .map((n) => Math.round(n.getBoundingClientRect().right))]"""
    )
    assert widths[1] == 360
    assert max(widths) <= 360


def test_the_read_out_follows_the_arrow_keys_in_every_chart(page: Page, worker: Worker) -> None:
    worker.past(lambda place: {"queue_depth": 100 + place, "cpu_percent": place}, 30)
    page.look_at(worker)
    page.shows("129", ".chart[aria-label^=Queue] .legend")
    queue = next(p for p in page.find(".plot") if "Queue" in str(p.get_attribute("aria-label")))
    page.run("arguments[0].focus({focusVisible: true})", queue)
    queue.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert page.text(".chart[aria-label^=Queue] .legend b") == "127"
    assert page.text(".chart[aria-label^=CPU] .legend b") == "27 %"
    assert "unfinished 127" in str(queue.get_attribute("aria-valuetext"))
    assert queue.get_attribute("aria-valuenow") == "27"
    queue.send_keys(Keys.HOME)
    assert page.text(".chart[aria-label^=Queue] .legend b") == "100"
    queue.send_keys(Keys.ARROW_LEFT)
    assert page.text(".chart[aria-label^=Queue] .legend b") == "100"
    queue.send_keys(Keys.ESCAPE)
    assert page.text(".chart[aria-label^=Queue] .legend b") == "129"
    ActionChains(page.driver).move_to_element(queue).perform()
    assert ":" in page.text(".chart[aria-label^=CPU] .at")


def test_everything_can_be_reached_by_the_tab_key_and_shows_it(page: Page, worker: Worker) -> None:
    busy(worker)
    page.look_at(worker)
    page.shows("3fa91c07", "#dead_letters")
    page.open_figures()
    wanted = page.run(
        """window.wanted = new Set([...document.querySelectorAll(
             'a[href], button:enabled, input, select, summary, [tabindex="0"]')]
             .filter((node) => node.checkVisibility()));
           window.faint = [];
           addEventListener('focusin', (event) => {
             wanted.delete(event.target);
             const style = getComputedStyle(event.target);
             if (style.outlineStyle !== 'solid' || style.outlineWidth !== '2px')
               faint.push(event.target.outerHTML);
           });
           return wanted.size"""
    )
    assert wanted > 30
    ActionChains(page.driver).send_keys(*[Keys.TAB] * (wanted + 5)).perform()
    assert page.run("return [...wanted].map((node) => node.outerHTML)") == []
    assert page.run("return faint") == []


def test_the_page_has_names_landmarks_and_headings(page: Page, worker: Worker) -> None:
    busy(worker)
    page.look_at(worker)
    page.shows("3fa91c07", "#dead_letters")
    page.open_figures()
    tree = page.command("Accessibility.getFullAXTree")["nodes"]
    nodes = [node for node in tree if not node["ignored"]]

    def role(node: dict[str, Any]) -> str:
        return str(node["role"]["value"])

    controls = {"button", "link", "textbox", "searchbox", "combobox", "slider", "table"}
    named = [node for node in nodes if role(node) in controls]
    assert len(named) > 30
    assert [node for node in named if not node.get("name", {}).get("value")] == []
    roles = {role(node) for node in nodes}
    assert roles >= {"banner", "main", "contentinfo", "navigation", "region", "status", "table"}
    assert roles >= {"columnheader", "cell", "slider"}
    levels = [
        next(p["value"]["value"] for p in node["properties"] if p["name"] == "level")
        for node in nodes
        if role(node) == "heading"
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_what_the_reader_selects_and_unfolds_stays_while_figures_change(
    page: Page, worker: Worker
) -> None:
    busy(worker)
    page.look_at(worker)
    page.shows("3fa91c07", "#dead_letters")
    page.find("#dead_letters summary")[0].click()
    page.run("getSelection().selectAllChildren(document.querySelector('#parked code'))")
    worker.views["group"] = {
        **worker.views["group"],
        "parked": [{**PARKED[0], "message_id": "1-0"}, *PARKED],
        "dead_letters": [letter(0), *LETTERS],
    }
    page.asks_until(f"{TIMES} 5", "#dead_letters")
    assert page.run("return getSelection().toString()") == PARKED[0]["message_id"]
    assert len(page.rows("#dead_letters details[open]")) == 5


def test_only_changes_of_the_status_are_read_out(page: Page, worker: Worker) -> None:
    busy(worker)
    page.look_at(worker)
    page.shows("Degraded", "#status")
    page.run(
        """window.told = [];
           const region = document.querySelector('[aria-live]');
           new MutationObserver(() => told.push(region.textContent))
             .observe(region, {childList: true, characterData: true, subtree: true})"""
    )
    (reason,) = worker.health["reasons"]
    for seconds in (134, 136, 138):
        worker.health |= {"reasons": [reason.replace("133 s", f"{seconds} s")]}
        page.ask_now()
        page.shows(f"for {seconds} s", "#reasons")
    assert page.run("return told") == []
    worker.health |= {"status": "unhealthy", "reasons": ["Redis is away"]}
    page.ask_now()
    disk = "disk: only 4 % of the disk are free"
    assert page.run("return told") == [f"Status: unhealthy. Redis is away; {disk}"]
    assert len(page.find("[aria-live]")) == 1


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
