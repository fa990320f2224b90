"""The table of settings: every argument has one, with the limits and the default that it has."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest

from shared_sync import Batching, HealthServer, RedisStreamConsumer, RetryPolicy
from shared_sync.cli.worker.kinds import Choice, Number
from shared_sync.cli.worker.setting import BATCHING, CONSUMER, RETRY, SERVER, Setting
from shared_sync.cli.worker.settings import HEADINGS, SETTINGS
from shared_sync.errors import ConfigurationError

TAKERS: dict[str, Any] = {
    CONSUMER: RedisStreamConsumer,
    BATCHING: Batching,
    RETRY: RetryPolicy,
    SERVER: HealthServer,
}
WITHOUT_SETTING = {
    CONSUMER: {"batch", "batch_processor"},  # made of other settings: --batch, and the processor
    SERVER: {"instance_id", "logger", "consumer", "metrics", "get_health_data", "get_metrics_data"},
}
"""Arguments whose values the command makes itself."""

OTHERWISE = {
    "redis_url": "the command has a usual address",
    "logger": "the name of a logger",
    "retry": "made of its parts",
    "port": "the command has a usual port",
    "actions": "a switch, as the command makes them",
    "max_size": "--batch says that the processor takes batches",
    "processor_factory": "a switch, as the processor is named apart",
}
"""Settings whose defaults differ from those of the arguments, and why."""


def of(taker: str) -> dict[str, Setting]:
    return {
        setting.argument or name: setting
        for name, setting in SETTINGS.items()
        if setting.to == taker
    }


@pytest.mark.parametrize("taker", TAKERS)
def test_every_argument_has_a_setting_with_its_default(taker: str) -> None:
    arguments = inspect.signature(TAKERS[taker]).parameters
    settings = of(taker)
    assert settings.keys() == arguments.keys() - WITHOUT_SETTING.get(taker, set())
    for name, setting in settings.items():
        default = arguments[name].default
        if name not in OTHERWISE and default is not inspect.Parameter.empty:
            given = [default] if name == "cors" else default
            given = list(given) if isinstance(given, (tuple, list)) else given
            assert setting.default == given, name


def test_no_two_settings_share_a_name_or_a_variable() -> None:
    settings = [setting for heading in HEADINGS.values() for setting in heading]
    variables = [name for setting in settings for name in setting.all_variables]
    assert len(settings) == len(SETTINGS)
    assert len(variables) == len(set(variables))


def make(setting: Setting, value: Any) -> None:
    """Make the taker of a setting with this value, and all that it needs beside it."""
    name = setting.argument or setting.name
    if setting.to != CONSUMER:
        TAKERS[setting.to](**{"max_size": 1, "size": len, "max_total": 1, name: value})
        return
    needed: dict[str, Any] = {
        "kill_grace_seconds": {"isolation": "process"},
        "max_memory_mb": {"isolation": "process"},
        "max_jobs_per_processor": {"isolation": "process"},
        "result_max_entries": {"result_stream": "results"},
        "result_ttl_seconds": {"result_stream": "results"},
        "max_crashes": {"prefetch": 1},
        "job_limit_seconds": {"job_deadline_seconds": 0.1},
    }
    others = needed.get(name, {})
    RedisStreamConsumer(
        "redis://localhost", "jobs", "g", None, None, "module:name", **{**others, name: value}
    )


NUMBERS = [
    setting
    for setting in SETTINGS.values()
    if isinstance(setting.kind, Number) and setting.to in (CONSUMER, BATCHING)
]


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda setting: setting.name)
def test_the_limits_of_a_number_are_those_of_its_argument(setting: Setting) -> None:
    kind = setting.kind
    assert isinstance(kind, Number)
    step = 1 if kind.whole else 0.0001
    inside = [kind.lowest] if kind.highest == math.inf else [kind.lowest, kind.highest]
    outside = [kind.lowest - step, *([kind.highest + 1] if kind.highest != math.inf else [])]
    words = kind.words.values() if setting.to == CONSUMER else ()
    for value in [*inside, *words]:
        make(setting, int(value) if kind.whole and isinstance(value, float) else value)
    for value in outside:
        with pytest.raises(ConfigurationError, match=setting.argument or setting.name):
            make(setting, value)
        with pytest.raises(ConfigurationError, match=r"^--x must be a "):
            kind.read("--x", str(value))


def test_the_kinds_with_words_have_those_of_their_argument() -> None:
    isolation = SETTINGS["isolation"].kind
    assert isinstance(isolation, Choice)
    for word in isolation.words:
        make(SETTINGS["isolation"], word)
