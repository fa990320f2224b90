"""How the suite runs in several processes at once, with pytest-xdist."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import PORTS
from xdist.scheduler import LoadFileScheduling

from shared_sync.connection import embedded

PROCESSES_PER_CORE = 3
"""The tests wait longer than they compute."""

MOST_PROCESSES = 12
TESTS = Path(__file__).parent


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes `-n auto` starts: none beside this one for a single file."""
    files = {argument.partition("::")[0] for argument in config.args}
    if len(files) == 1 and Path(*files).is_file():
        return 0
    return min(PROCESSES_PER_CORE * (os.cpu_count() or 1), MOST_PROCESSES)


LONG_FILES = (
    "demo/services/test_pipeline.py",
    "cli/test_serve.py",
    "health_server/test_dashboard_tables.py",
    "health_server/test_dashboard_data.py",
    "demo/services/test_run.py",
    "redis_consumer/test_stalls.py",
    "protocol/test_model.py",
    "faults/test_redis.py",
    "redis_consumer/test_at_exit.py",
    "demo/test_run.py",
    "faults/test_messages_that_kill.py",
    "test_walkthroughs.py",
    "faults/test_full_redis.py",
    "cli/worker/test_supervisor.py",
    "cli/worker/test_program.py",
    "faults/test_processes.py",
    "test_examples.py",
    "faults/test_stopped_processes.py",
    "faults/test_speech_service.py",
    "faults/test_network.py",
    "redis_consumer/running/test_isolated_programs.py",
    "faults/test_failover.py",
    "redis_consumer/test_refused_results.py",
    "faults/test_children.py",
    "faults/test_progress.py",
    "faults/test_outputs.py",
    "faults/test_cancelling.py",
    "redis_consumer/test_connecting.py",
    "redis_consumer/running/test_isolation.py",
    "faults/test_names.py",
    "redis_consumer/test_blocked_logging.py",
    "faults/test_broken_workers.py",
    "isolation/test_process.py",
    "health_server/test_worker.py",
    "redis_consumer/running/test_factory_children.py",
    "redis_consumer/settling/test_outbox_repeats.py",
    "redis_consumer/test_asyncio.py",
)
"""Files that take longest, though some have few tests. A process that began with one of them when
the others are done would keep the whole run waiting."""

SHARED_BROWSERS = (
    (
        "health_server/test_dashboard_tables.py",
        "health_server/test_dashboard_accessibility.py",
        "health_server/test_dashboard_actions.py",
        "health_server/test_dashboard_group.py",
        "health_server/test_foreign_pages.py",
    ),
    (
        "health_server/test_dashboard_data.py",
        "health_server/test_dashboard_live.py",
        "health_server/test_dashboard_connection.py",
        "health_server/test_dashboard_charts.py",
    ),
)
"""Files that run one after the other in the same process, because a browser takes long to start."""


class FilesTogether(LoadFileScheduling):
    """Gives each file, or the files that share a browser, to one process."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        for files in SHARED_BROWSERS:
            if file.endswith(files):
                return files[0]
        return file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesTogether | None:
    """Return what distributes the tests, unless another way was asked for."""
    return FilesTogether(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_configure(config: pytest.Config) -> None:
    """Start servers on ports that no other process of this run uses, and keep byte code.

    Otherwise another server could take the port of one that is killed and started again, and each
    process of this run and each of the hundreds of programs that tests start would compile all
    that it imports, which takes most of a second.
    """
    embedded._PORTS = PORTS
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    config.option.loadscopereorder = False  # pytest_collection_modifyitems() below has the order


@pytest.hookimpl(hookwrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Collect without the garbage collector, which would go through all modules again and again."""
    gc.disable()
    if hasattr(session.config, "workerinput"):
        _import_test_files(session)
    yield
    gc.enable()


def _import_test_files(session: pytest.Session) -> None:
    """Import all test files, beginning at another one in each process of the run.

    So each process compiles a part of them, and finds the others compiled. If all began at the
    same one, each would compile all of them.
    """
    if [Path(argument).resolve() for argument in session.config.args] != [TESTS]:
        return
    files = sorted(TESTS.rglob("test_*.py"))
    number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    first = len(files) * number // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    for path in files[first:] + files[:first]:
        try:
            _ = pytest.Module.from_parent(session, path=path).obj
        except (Exception, pytest.skip.Exception):  # The collection shall meet it, and report it.
            for name, module in list(sys.modules.items()):
                if getattr(module, "__file__", None) == str(path):
                    del sys.modules[name]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have several processes begin with the long files, and with those of most tests in between.

    In between, because the long ones wait most of the time, and are the ones with time limits.
    """
    if not hasattr(config, "workerinput"):
        return
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path.relative_to(TESTS).as_posix(), []).append(item)
    long_ones = [name for name in LONG_FILES if name in files]
    others = sorted(files.keys() - set(LONG_FILES), key=lambda name: (-len(files[name]), name))
    order = [name for pair in zip(long_ones, others, strict=False) for name in pair]
    order += [*long_ones[len(others) :], *others[len(long_ones) :]]
    items[:] = [item for name in order for item in files[name]]


@pytest.hookimpl(hookwrapper=True)
def pytest_report_to_serializable() -> Iterator[None]:
    """Escape half surrogates in a report, which is sent as UTF-8.

    Some tests log such text, and a failure may quote it.
    """
    outcome = yield
    outcome.force_result(_escaped(outcome.get_result()))


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_escaped(key): _escaped(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_escaped(part) for part in value)
    return value
