"""A child process is started, given jobs, and ended; nothing of it is ever left behind."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import child_processes
import psutil
import pytest
from child_processes import Records, children, is_alive, open_files, result, run, running, start
from helpers import eventually, in_a_fork

from shared_sync import WorkerMetrics
from shared_sync.errors import ConfigurationError
from shared_sync.isolation import frames, process
from shared_sync.isolation.child_metrics import record_in
from shared_sync.isolation.error_description import remake
from shared_sync.isolation.errors import ChildCrashed, DeadlinePassed, GracePassed, RemoteError

FACTORY = "processor_factory"


# --- what a child is started with ---------------------------------------------------------------


def test_a_factory_of_a_child_is_told_its_reader_and_its_device() -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "3"}
    with running(
        "closing", argument=FACTORY, environment=environment, reader=2, device="cuda:0"
    ) as child:
        found = result(run(child))
    assert found.pop("pid") == str(child.pid)
    types = '{"json": ["reader", "pid"]}'
    facts = {"reader": "2", "device": "cuda:0", "cuda": "3"}
    assert found == {**facts, "shared_sync.types": types}
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != "3"


def test_a_child_is_given_nothing_that_other_users_can_read() -> None:
    with running("answer", argv=["worker.py", "--password=s3cret"]) as child:
        assert "s3cret" not in " ".join(psutil.Process(child.pid).cmdline())


def test_a_child_has_no_other_descriptors_of_its_parent(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w") as file, running("answer") as child:
        os.set_inheritable(file.fileno(), True)
        assert str(tmp_path / "file") not in [
            one.path for one in psutil.Process(child.pid).open_files()
        ]


def test_a_child_imports_nothing_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise ImportError('not this one')")
    monkeypatch.chdir(tmp_path)
    with running("answer") as child:
        assert result(run(child, n=1))["n"] == "1"


def test_a_child_is_light() -> None:
    """What a child imports is paid for by each start."""
    with running("act") as child:
        loaded = run(child, do="modules")
    assert {"redis", "flask", "prometheus_client", "psutil", "shared_sync.metrics"}.isdisjoint(
        result(loaded)["result"].split()
    )


# --- what cannot be loaded ----------------------------------------------------------------------


def test_a_processor_that_cannot_be_loaded_says_why() -> None:
    child = start("failing", argument=FACTORY)
    answer = child.wait_until_loaded()
    child.close()
    assert answer.kind == frames.FAILED
    error = remake(answer.header["error"])
    assert isinstance(error, RemoteError)
    assert (error.type_name, str(error)) == ("OSError", "model.bin is damaged")
    assert "in failing" in error.traceback_text


def test_a_processor_that_is_not_there_is_an_error_of_configuration() -> None:
    child = start("missing")
    answer = child.wait_until_loaded()
    child.close()
    assert isinstance(remake(answer.header["error"]), ConfigurationError)


def test_a_child_that_dies_while_it_loads_says_so() -> None:
    with pytest.raises(ChildCrashed, match=r"killed by SIGKILL.* while it loaded the processor"):
        start("crashing", argument=FACTORY).wait_until_loaded()
    assert children() == []


# --- how it ends --------------------------------------------------------------------------------


def test_closing_a_child_closes_its_processor(tmp_path: Path) -> None:
    with running("closing", argument=FACTORY) as child:
        run(child, closed=tmp_path / "closed")
    assert (tmp_path / "closed").exists()
    assert not psutil.pid_exists(child.pid)


def test_a_processor_that_fails_to_close_is_logged() -> None:
    records = Records()
    with running("failing_close", argument=FACTORY, reader=3, records=records):
        pass
    (record,) = records.of(frames.LOG)
    assert record["msg"] == "the processor of reader 3 could not be closed"
    assert "OSError: the device is gone" in record["exc_text"]


def test_a_processor_that_does_not_close_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "END_SECONDS", 0.2)
    with running("hanging_close", argument=FACTORY, kill_grace_seconds=0.1) as child:
        pass
    assert not psutil.pid_exists(child.pid)


def test_a_crash_tells_where_it_happened() -> None:
    with pytest.raises(ChildCrashed) as crash, running("act") as child:
        run(child, do="segfault")
    assert crash.value.signal_number == signal.SIGSEGV
    assert "in _segfault" in crash.value.stack
    assert children() == []


@pytest.mark.parametrize("how", ["deadline", "crash", "close"])
def test_programs_that_a_child_has_started_end_with_it(tmp_path: Path, how: str) -> None:
    started = tmp_path / "started"
    limit = 0.3 if how == "deadline" else None
    child = start("act", deadline_seconds=limit)
    child.wait_until_loaded()
    if how == "deadline":
        with pytest.raises(DeadlinePassed):
            run(child, do="start a program", started=started)
    elif how == "crash":
        run(child, do="leave a program", started=started)
        with pytest.raises(ChildCrashed):
            run(child, do="exit", code=1)
    else:
        run(child, do="leave a program", started=started)
        child.close()
    eventually(lambda: not is_alive(started))


def test_any_thread_can_end_a_child_that_runs(tmp_path: Path) -> None:
    started = tmp_path / "started"
    child = start("act")
    child.wait_until_loaded()

    def interrupt() -> None:
        eventually(started.exists)
        child.interrupt()

    other = threading.Thread(target=interrupt)
    other.start()
    with pytest.raises(ChildCrashed) as crash:
        run(child, do="hold", started=started, seconds=60)
    assert crash.value.signal_number == signal.SIGTERM
    other.join()
    child.interrupt()  # there is nothing to end any more


def test_a_child_for_which_there_is_no_thread_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with running("answer"):
        pass  # threads that last are started now
    before = open_files()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="no more threads"):
            start("answer")
    assert (open_files(), children()) == (before, [])


def refuse(_: threading.Thread) -> None:
    raise RuntimeError("no more threads")


def test_nothing_is_left_of_children_that_were_replaced() -> None:
    def replace(way: int) -> None:
        child = start("act", deadline_seconds=0.1, kill_grace_seconds=0.05)
        child.wait_until_loaded()
        if way == 0:
            child.close()
        else:
            with pytest.raises((ChildCrashed, DeadlinePassed)):
                run(child, **({"do": "segfault"} if way == 1 else {"do": "loop"}))

    replace(0)
    before = (open_files(), threading.active_count())
    for number in range(9):
        replace(number % 3)
    assert (open_files(), threading.active_count()) == before
    assert children() == []


# --- what it logs and records -------------------------------------------------------------------


def test_what_is_logged_while_no_message_runs_arrives(tmp_path: Path) -> None:
    records, done = Records(), tmp_path / "done"
    with running(
        "acting", argument=FACTORY, records=records, levels={"tests.child": logging.INFO}
    ) as child:
        run(child, do="log later", done=done)
        eventually(lambda: [one["msg"] for one in records.of(frames.LOG)] == ["loading"])
        done.touch()
        eventually(lambda: len(records.of(frames.LOG)) == 2)
    loading, later = records.of(frames.LOG)
    assert (loading["name"], loading["levelno"]) == ("tests.child", logging.INFO)
    assert (later["msg"], later["message_id"]) == ("afterwards", None)


def test_what_a_long_job_records_arrives_while_it_runs(tmp_path: Path) -> None:
    records, started, end = Records(), tmp_path / "started", tmp_path / "end"

    def end_it() -> None:
        eventually(lambda: records.of(frames.METRICS))
        end.touch()

    with running("acting", argument=FACTORY, records=records) as child:
        other = threading.Thread(target=end_it)
        other.start()
        answer = run(child, do="record", started=started, end=end)
        other.join()
    assert "metrics" not in answer.header, "each value arrives once"
    (recorded,) = records.of(frames.METRICS)
    metrics = WorkerMetrics("parent")
    record_in(metrics, recorded)
    snapshot = metrics.get_metrics_data()
    assert snapshot["errors"] == {"ValueError": 1}
    assert (
        'chunks_total{instance_id="parent",kind="audio"} 2' in metrics.render_prometheus().decode()
    )


# --- deadlines ----------------------------------------------------------------------------------


FROZEN = """
import sys
from child_processes import running, run, result
started, end = sys.argv[1:]
with running("act", deadline_seconds=2.0) as child:
    print(child.pid, flush=True)
    print(result(run(child, do="wait", started=started, end=end))["result"], flush=True)
"""


def test_the_time_in_which_a_parent_is_frozen_does_not_count(tmp_path: Path) -> None:
    started, end = tmp_path / "started", tmp_path / "end"
    environment = {**os.environ, "PYTHONPATH": str(Path(child_processes.__file__).parent)}
    with subprocess.Popen(
        [sys.executable, "-c", FROZEN, started, end],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        eventually(started.exists)
        for pid in (parent.pid, child):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2.2)  # frozen for longer than the deadline
        end.touch()
        os.kill(parent.pid, signal.SIGCONT)
        time.sleep(0.6)  # the parent looks at the clock meanwhile
        os.kill(child, signal.SIGCONT)
        assert parent.stdout.readline() == "waited\n"
        assert parent.wait(10) == 0


# --- cancellation -------------------------------------------------------------------------------


def test_a_job_that_goes_on_although_it_is_cancelled_is_ended_after_the_grace(
    tmp_path: Path,
) -> None:
    started, cleaned = tmp_path / "started", tmp_path / "cleaned"
    child = start("act", kill_grace_seconds=0.2)
    child.wait_until_loaded()

    def cancel() -> None:
        eventually(started.exists)
        child.cancel(["1-0"])
        child.cancel(["1-0"])

    other = threading.Thread(target=cancel)
    other.start()
    with pytest.raises(GracePassed, match=r"0\.2 s after its message was cancelled"):
        run(child, do="clean up", started=started, cleaned=cleaned)
    other.join()
    assert cleaned.exists()
    assert children() == []
    child.cancel(["1-0"])  # there is nothing to tell any more


def test_a_job_with_a_message_that_is_not_cancelled_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, end = tmp_path / "started", tmp_path / "end"
    monkeypatch.setattr(process, "CHECK_SECONDS", 0.02)

    def cancel() -> None:
        eventually(started.exists)
        child.cancel(["1-1"])
        before = len(checks)
        eventually(lambda: len(checks) > before + 2)
        end.touch()

    items = [b"started", bytes(started), b"end", bytes(end)]
    both = {"messages": [("1-0", 1, 4), ("1-1", 1, 4)], "number": 1, "clock": 0.0}
    with running(
        "batch", argument="batch_processor", path="job_processors:hold_batch", kill_grace_seconds=0
    ) as child:
        checks: list[None] = []
        check = child._on_wait
        child._jobs._on_wait = lambda: checks.append(check())
        other = threading.Thread(target=cancel)
        other.start()
        answer = child.run(both, [*items, *items])
        other.join()
    assert answer.header["outcomes"] == [None, None]


# --- forks --------------------------------------------------------------------------------------


def test_a_forked_copy_of_the_parent_has_no_part_in_the_child() -> None:
    with running("answer") as child:
        in_a_fork(lambda: None)
        assert result(run(child, n=1))["n"] == "1"


def test_a_fork_of_the_child_has_no_part_in_its_parent() -> None:
    """A processor may use multiprocessing; its processes outlive the child."""
    records = Records()
    with running("act", records=records) as child:
        assert result(run(child, do="fork"))["result"] == "forked"
        with pytest.raises(ChildCrashed, match="exit code 4"):
            run(child, do="exit", code=4)
    assert records.of(frames.LOG) == []
