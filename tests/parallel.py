"""How the suite runs in several processes at once, with pytest-xdist."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import PORTS

from shared_sync.connection import embedded

PROCESSES_PER_CORE = 3
"""The tests wait longer than they compute."""

MOST_PROCESSES = 12


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes `-n auto` starts: none beside this one for a single file."""
    files = {argument.partition("::")[0] for argument in config.args}
    if len(files) == 1 and Path(*files).is_file():
        return 0
    return min(PROCESSES_PER_CORE * (os.cpu_count() or 1), MOST_PROCESSES)


def pytest_configure() -> None:
    """Start servers on ports that no other process of this run uses.

    Otherwise another server could take the port of one that is killed and started again.
    """
    embedded._PORTS = PORTS


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
