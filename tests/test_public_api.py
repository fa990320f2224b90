"""The public names, what an import loads, and which files are packaged."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ENVIRONMENT

import shared_sync

PACKAGE = Path(shared_sync.__file__).parent
SOURCE = Path(__file__).parents[1] / "shared_sync"

MODULES = {
    "Batching": "shared_sync.batching",
    "CircuitBreaker": "shared_sync.circuit_breaker",
    "CircuitOpen": "shared_sync.errors",
    "ConfigurationError": "shared_sync.errors",
    "ConsumerBroken": "shared_sync.errors",
    "DeadLetters": "shared_sync.dead_letters",
    "HealthServer": "shared_sync.health_server",
    "Job": "shared_sync.redis_producer",
    "InvalidMessage": "shared_sync.errors",
    "Message": "shared_sync.message",
    "ProcessorContext": "shared_sync.processors",
    "QueueFull": "shared_sync.errors",
    "RedisAccessDenied": "shared_sync.errors",
    "RedisRefused": "shared_sync.errors",
    "RedisUnavailable": "shared_sync.errors",
    "RedisStreamConsumer": "shared_sync.redis_consumer",
    "RedisStreamProducer": "shared_sync.redis_producer",
    "JobCancelled": "shared_sync.errors",
    "JobFailed": "shared_sync.errors",
    "JobHandle": "shared_sync.redis_producer",
    "Reject": "shared_sync.errors",
    "Result": "shared_sync.result_listener",
    "ResultListener": "shared_sync.result_listener",
    "ResultTimeout": "shared_sync.errors",
    "Retry": "shared_sync.errors",
    "RetryPolicy": "shared_sync.policies",
    "SharedSyncError": "shared_sync.errors",
    "WorkerBroken": "shared_sync.errors",
    "WorkerMetrics": "shared_sync.metrics",
    "current_message": "shared_sync.message",
}
HEAVY_LIBRARIES = ("opentelemetry", "redis", "flask", "waitress", "werkzeug", "pynvml")


def python(code: str) -> str:
    """Run code in a new interpreter and return what it prints; fails on errors and warnings."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=ENVIRONMENT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shared_sync.__all__)
def test_every_exported_name_is_imported_from_its_documented_module(name: str) -> None:
    loaded = getattr(shared_sync, name)
    module = MODULES[name]
    assert getattr(importlib.import_module(module), name) is loaded
    assert loaded.__module__ == module or loaded.__module__.startswith(f"{module}.")
    assert shared_sync.__doc__
    assert module in shared_sync.__doc__


@pytest.mark.parametrize(("name", "module"), MODULES.items())
def test_the_promised_names_stay_where_they_are(name: str, module: str) -> None:
    assert name in shared_sync.__all__
    assert getattr(importlib.import_module(module), name) is getattr(shared_sync, name)


def test_the_exported_names_are_sorted_and_listed_once() -> None:
    assert shared_sync.__all__ == sorted(set(shared_sync.__all__))


def test_dir_lists_the_exported_names_and_other_names_raise_as_usual() -> None:
    assert set(shared_sync.__all__) <= set(dir(shared_sync))
    with pytest.raises(AttributeError, match="nothing_like_this"):
        shared_sync.nothing_like_this  # noqa: B018
    with pytest.raises(ImportError):
        from shared_sync import nothing_like_this  # noqa: F401, PLC0415


def test_a_star_import_gives_the_exported_names() -> None:
    printed = python("from shared_sync import *; print(sorted(n for n in dir() if n[0] != '_'))")
    assert ast.literal_eval(printed) == sorted(
        name for name in shared_sync.__all__ if not name.startswith("_")
    )


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (guarded,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        alias.name: node.module
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == MODULES


def test_every_error_has_the_common_base_and_is_listed_in_the_tree() -> None:
    from shared_sync import errors  # noqa: PLC0415

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(kinds) > 10
    for kind in kinds:
        assert issubclass(kind, errors.SharedSyncError | errors.Directive)
        assert kind.__name__ in (errors.__doc__ or "")
        assert kind.__doc__


# --- what an import loads ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "module",
    [
        "shared_sync",
        "shared_sync.metrics",
        "shared_sync.checks",
        "shared_sync.metrics.resources",
        "shared_sync.errors",
        "shared_sync.policies",
        "shared_sync.processors",
        "shared_sync.health",
        "shared_sync.cli.serve",
    ],
)
def test_importing_it_loads_neither_redis_nor_flask(module: str) -> None:
    printed = python(
        f"import sys, {module}; print(sorted({{n.partition('.')[0] for n in sys.modules}}))"
    )
    assert not set(HEAVY_LIBRARIES) & set(ast.literal_eval(printed))


def test_a_health_server_loads_no_redis_and_a_consumer_no_flask() -> None:
    code = "import sys, shared_sync.{}; print([n for n in {!r} if n in sys.modules])"
    assert python(code.format("health_server", ["redis"])) == "[]"
    web = ["flask", "waitress", "werkzeug"]
    assert python(code.format("redis_consumer", web)) == "[]"
    assert python(code.format("redis_producer", web)) == "[]"


IMPORTABLE = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path not in (PACKAGE / "__init__.py", PACKAGE / "__main__.py")
)


def test_every_module_can_be_imported_and_starts_no_thread() -> None:
    """Which of them comes first makes no difference: no imports run in a circle."""
    modules = [f"shared_sync.{module}" for module in IMPORTABLE]
    code = (
        "import importlib, threading\n"
        f"for module in {modules}: importlib.import_module(module)\n"
        "print(threading.active_count())"
    )
    assert python(code) == "1"


# --- packaged files ---------------------------------------------------------------------------


def test_files_that_are_not_modules_are_packaged() -> None:
    data = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("[!.]*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    }
    data = {name for name in data if not name.startswith(".")}  # caches of tools
    assert {"py.typed", "protocol/lua/finish.lua"} <= data
    assert {name for name in data if not (PACKAGE / name).is_file()} == set()


def test_the_scripts_are_found_where_the_package_is_installed() -> None:
    from shared_sync.connection import scripts  # noqa: PLC0415

    stems = {path.stem for path in (PACKAGE / "protocol" / "lua").glob("*.lua")}
    assert set(scripts.scripts()) == stems - {"common", "events", "letter_index"}


def test_the_version_is_a_plain_number() -> None:
    assert all(part.isdigit() for part in shared_sync.__version__.split("."))
