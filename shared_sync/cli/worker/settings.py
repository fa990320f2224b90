"""The table of all settings of the command `worker`: names, kinds, defaults, and what they are for.

Options, environment variables, the keys of a file, `--help` and the printed configuration are made
from this table alone. A test compares it with the arguments of `RedisStreamConsumer`, `Batching`,
`RetryPolicy` and `HealthServer`, so that none of them is forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from shared_sync.cli.redis_options import DEFAULT_URL
from shared_sync.cli.worker.kinds import (
    NONE,
    Choice,
    ImportPath,
    ImportPaths,
    Names,
    Number,
    Port,
    Switch,
    Text,
)
from shared_sync.cli.worker.setting import BATCHING, COMMAND, RETRY, SERVER, Setting

DEFAULT_PORT: Final = 8080
_YEAR: Final = 365 * 86_400


def _seconds(
    lowest: float, highest: float = math.inf, words: Mapping[str, Any] | None = None
) -> Number:
    return Number(lowest, highest, "seconds", words or {})


def _whole(
    lowest: int, highest: float = math.inf, unit: str = "", words: Mapping[str, Any] | None = None
) -> Number:
    return Number(lowest, highest, unit, words or {}, whole=True)


_NO_LIMIT: Final = {NONE: None}
_FOR_EVER: Final = {"inf": math.inf, **_NO_LIMIT}

WHERE: Final = (
    Setting(
        "stream",
        Text("NAME"),
        None,
        "stream to process; it is created if it does not exist",
        ("STREAM_NAME", "STREAM"),
        "stream_name",
    ),
    Setting(
        "group",
        Text("NAME"),
        None,
        "consumer group; all workers that share the work name the same one",
        ("CONSUMER_GROUP",),
        "consumer_group",
    ),
    Setting(
        "consumer_id",
        Text("NAME"),
        None,
        "name of this worker in the group, which no other may have; with --processes each adds "
        "its number (default: a unique one)",
        ("WORKER_ID",),
    ),
    Setting("redis_url", Text("URL"), DEFAULT_URL, "address of Redis", ("REDIS_URL",)),
    Setting(
        "redis_password_file",
        Text("FILE"),
        None,
        "file with the password of Redis, read again at each connect; the URL has no user and no "
        "password then",
        to=COMMAND,
    ),
    Setting(
        "redis_user",
        Text("NAME"),
        None,
        "user whose password is in --redis-password-file",
        to=COMMAND,
    ),
    Setting(
        "credential_provider",
        ImportPath(),
        None,
        "object, or function that makes one, with get_credentials(), which is asked at each "
        "connect",
    ),
    Setting(
        "connect_seconds",
        _seconds(0, _YEAR, _FOR_EVER),
        None,
        "how long to try again if Redis is away at the start; none and inf for ever",
    ),
    Setting("block_seconds", _seconds(0.01, 2), 1.0, "longest wait of one read"),
)

PROCESSOR: Final = (
    Setting(
        "processor",
        ImportPath("MODULE:PROCESSOR"),
        None,
        "the processor: a function of (message_id, message_data), or a class, of which one object "
        "is made for each thread; with --batch a function of a list of messages. MODULE is "
        "searched for in the current folder, too",
        argument="message_processor",
    ),
    Setting(
        "factory",
        Switch(),
        False,
        "MODULE:PROCESSOR makes a processor: it is called with a ProcessorContext in each thread",
        argument="processor_factory",
    ),
    Setting("threads", _whole(1, 1000), 1, "messages processed at the same time"),
    Setting(
        "isolation",
        Choice(("thread", "process")),
        "thread",
        "process: run the processor of each thread in a child process of its own",
    ),
    Setting(
        "batch",
        _whole(1, 1000, words=_NO_LIMIT),
        None,
        "messages that the processor takes at once, at most",
        argument="max_size",
        to=BATCHING,
    ),
    Setting(
        "batch_wait_seconds",
        _seconds(0, 60),
        0.05,
        "how long the first message of a batch waits for others",
        argument="max_wait_seconds",
        to=BATCHING,
    ),
    Setting(
        "batch_cost",
        ImportPath(),
        None,
        "function of a Message that returns what it costs; with --batch-max-cost",
        argument="size",
        to=BATCHING,
    ),
    Setting(
        "batch_max_cost",
        Number(0, words=_NO_LIMIT),
        None,
        "most that the messages of a batch may cost together",
        argument="max_total",
        to=BATCHING,
    ),
    Setting(
        "prefetch",
        _whole(1, 1000, words={"auto": "auto"}),
        "auto",
        "messages that a thread fetches at a time",
    ),
    Setting("devices", Names(), [], "devices, such as cuda:0,cuda:1, dealt out to the threads"),
    Setting(
        "max_jobs_per_processor",
        _whole(1, unit="messages", words=_NO_LIMIT),
        None,
        "after how many messages a thread replaces its processor",
    ),
    Setting(
        "max_memory_mb",
        Number(1, unit="MB", words=_NO_LIMIT),
        None,
        "a child process that is larger between two messages is replaced",
    ),
    Setting(
        "kill_grace_seconds",
        _seconds(0, 3600),
        5.0,
        "how long a child process may take to end before it is killed",
    ),
    Setting(
        "circuit_breakers",
        ImportPaths(),
        [],
        "the circuit breakers that the processor uses",
    ),
    Setting("binary_fields", Names(), [], "fields whose values stay bytes"),
)

RESULTS: Final = (
    Setting(
        "result_stream",
        Text("NAME"),
        None,
        "stream that gets the results; it may contain fields, as results:{gateway} does",
    ),
    Setting("result_channel", Text("NAME"), None, "channel that gets the results as JSON"),
    Setting(
        "result_max_entries",
        _whole(1, unit="entries", words=_NO_LIMIT),
        None,
        "how many results are kept",
    ),
    Setting(
        "result_ttl_seconds", _seconds(1, 10 * _YEAR, _NO_LIMIT), None, "how long results are kept"
    ),
    Setting("carry_fields", Names(), [], "fields of a message that go along with its result"),
    Setting(
        "progress_per_second",
        Number(0.01, 1000),
        10.0,
        "reports of progress that are sent for a message per second, at most",
    ),
)

FAILURES: Final = (
    Setting(
        "retry_max_attempts",
        _whole(1),
        5,
        "failures after which a message is dead",
        argument="max_attempts",
        to=RETRY,
    ),
    Setting(
        "retry_base_seconds",
        _seconds(0, 366 * 86_400),
        1.0,
        "wait after the first failure",
        argument="base_seconds",
        to=RETRY,
    ),
    Setting(
        "retry_max_seconds",
        _seconds(0, 366 * 86_400),
        300.0,
        "longest wait after a failure",
        argument="max_seconds",
        to=RETRY,
    ),
    Setting(
        "retry_jitter",
        Number(0, 1),
        0.25,
        "share of each wait that is left to chance",
        argument="jitter",
        to=RETRY,
    ),
    Setting(
        "retry",
        ImportPath(),
        None,
        "a RetryPolicy of the program, in place of the four settings above",
    ),
    Setting("max_crashes", _whole(1), 3, "crashes after which a message is dead"),
    Setting(
        "dead_max_entries",
        _whole(1, unit="entries", words=_NO_LIMIT),
        None,
        "how many dead letters are kept",
    ),
    Setting(
        "dead_ttl_seconds",
        _seconds(1, 10 * _YEAR, _NO_LIMIT),
        None,
        "how long dead letters are kept",
    ),
    Setting("dead_letter_expired", Switch(), False, "make expired messages dead letters"),
    Setting(
        "fatal_errors",
        Names("ERRORS"),
        [],
        "errors that say that this worker is broken: names such as torch.AcceleratorError, or "
        "MODULE:NAME",
    ),
    Setting(
        "max_failures_in_a_row",
        _whole(2, words=_NO_LIMIT),
        5,
        "different messages that fail in a row before the worker pauses",
    ),
    Setting(
        "max_failure_share",
        Number(0, 1, words=_NO_LIMIT),
        0.5,
        "share of failures above which the worker is degraded",
    ),
)

TIMES: Final = (
    Setting(
        "lease_seconds",
        _seconds(1, 86_400),
        30.0,
        "how long after its last heartbeat a worker counts as dead",
    ),
    Setting("drain_seconds", _seconds(0, 86_400), 25.0, "time to finish running messages"),
    Setting(
        "job_deadline_seconds",
        _seconds(0.1, _YEAR, _NO_LIMIT),
        None,
        "how long a message may run",
    ),
    Setting(
        "job_limit_seconds",
        _seconds(0.1, 2 * _YEAR, _NO_LIMIT),
        None,
        "after how long a message makes the worker not live; none for a value that fits",
    ),
    Setting(
        "late_after_p99s",
        Number(1, 1_000_000, words=_NO_LIMIT),
        10.0,
        "a job is late that takes so many times as long as 99 of 100 did",
    ),
    Setting(
        "max_age_seconds",
        _seconds(0.001, words=_NO_LIMIT),
        None,
        "an older message expires instead of being started",
    ),
    Setting(
        "foreign_idle_seconds",
        _seconds(1, words=_FOR_EVER),
        None,
        "after how long a message of another library is taken over; none for the lease",
    ),
)

HEALTH: Final = (
    Setting(
        "health_port",
        Port(),
        DEFAULT_PORT,
        "port of the health server; if none is given and 8080 is taken, a free one",
        ("HEALTH_PORT",),
        "port",
        SERVER,
    ),
    Setting(
        "host", Text("ADDRESS"), None, "address of the health server (default: all)", to=SERVER
    ),
    Setting(
        "token_file",
        Text("FILE"),
        None,
        "file with the token of the health server (default: the variable HEALTH_TOKEN, else none)",
        argument="token",
        to=SERVER,
    ),
    Setting(
        "allowed_hosts",
        Names(),
        [],
        "names under which a browser may open the page",
        ("HEALTH_ALLOWED_HOSTS",),
        to=SERVER,
    ),
    Setting(
        "cors",
        Names("ORIGINS"),
        ["*"],
        "whose pages may read /health and /metrics; none for nobody",
        to=SERVER,
    ),
    Setting(
        "critical",
        Names("KEYS"),
        ["redis_connected", "model_loaded"],
        "keys of health data that must not be false",
        to=SERVER,
    ),
    Setting("details", Switch(), False, "show texts of errors on the page", to=SERVER),
    Setting(
        "actions",
        Switch(),
        False,
        "let whoever has the token act from the page: replay and purge dead letters, pause the "
        "group",
        ("HEALTH_ACTIONS",),
        to=SERVER,
    ),
    Setting(
        "action_origins",
        Names("ORIGINS"),
        [],
        "where operators open the page, if a proxy passes on another name",
        ("HEALTH_ACTION_ORIGINS",),
        to=SERVER,
    ),
    Setting(
        "metrics",
        ImportPath(),
        None,
        "the WorkerMetrics of the program (default: a new one)",
    ),
)

PROGRAM: Final = (
    Setting("processes", _whole(1, 256), 1, "worker processes on this machine", to=COMMAND),
    Setting(
        "reload",
        Switch(),
        False,
        "restart when a .py file below the current folder has changed",
        to=COMMAND,
    ),
    Setting(
        "release",
        Text("NAME"),
        None,
        "release of your program, which the page of the group shows",
    ),
    Setting("logger", Text("NAME"), "shared_sync", "logger of the worker"),
    Setting(
        "log_level",
        Choice(("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")),
        "INFO",
        "the lowest level that is logged",
        ("LOG_LEVEL",),
        to=COMMAND,
    ),
    Setting(
        "log_format",
        Choice(("text", "json")),
        "text",
        "the form of log records",
        ("LOG_FORMAT",),
        to=COMMAND,
    ),
    Setting(
        "tracing",
        Switch(),
        False,
        "make spans of OpenTelemetry, which its OTEL_... variables say where to send",
        ("TRACING",),
    ),
)

HEADINGS: Final[Mapping[str, tuple[Setting, ...]]] = {
    "messages and Redis": WHERE,
    "processor": PROCESSOR,
    "results": RESULTS,
    "failures": FAILURES,
    "times": TIMES,
    "health server": HEALTH,
    "program": PROGRAM,
}
"""The settings in the order of `--help`."""

SETTINGS: Final[Mapping[str, Setting]] = {
    setting.name: setting for settings in HEADINGS.values() for setting in settings
}
"""All settings by name."""
