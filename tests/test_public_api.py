"""The names a user may rely on, what importing them costs, and which way imports point."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import ENVIRONMENT

import shared_sync

PACKAGE = Path(shared_sync.__file__).parent
SOURCE = Path(__file__).parents[1] / "shared_sync"

HOMES = {
    "HealthServer": "shared_sync.health_server",
    "Message": "shared_sync.message",
    "RedisStreamConsumer": "shared_sync.redis_consumer",
    "RedisStreamProducer": "shared_sync.redis_producer",
    "Reject": "shared_sync.errors",
    "Retry": "shared_sync.errors",
    "RetryPolicy": "shared_sync.policies",
    "SharedSyncError": "shared_sync.errors",
    "WorkerMetrics": "shared_sync.metrics",
    "current_message": "shared_sync.message",
}
OUTSIDERS = ("redis", "flask", "waitress", "werkzeug", "pynvml")
ISLANDS: dict[str, set[str]] = {
    "metrics": {
        *("errors", "_alerts", "_catalogue", "_categories", "_exposition", "_figures"),
        *("_histogram", "_labels", "_rates", "_resources", "_snapshot"),
    },
    "_exposition": {"_catalogue", "_figures", "_histogram", "_labels", "_snapshot"},
    "_figures": {"_labels", "_snapshot"},
    "_snapshot": {"_catalogue", "_histogram", "_labels", "_resources"},
    "_alerts": {"errors", "_labels"},
    "_categories": {"errors"},
    "_labels": {"errors"},
    "_rates": {"_histogram"},
    "_accept": set(),
    "_catalogue": set(),
    "_history": set(),
    "_histogram": set(),
    "health_server": {
        *("errors", "_accept", "_board", "_check", "_finding", "_guarded", "_health_data"),
        "_serving",
    },
    "_board": {
        *("errors", "_accept", "_caller", "_calls", "_exposition", "_finding", "_history"),
        "_health_data",
    },
    "_calls": {"_caller", "_finding", "_health_data", "_patient"},
    "_finding": {"_caller", "_health_data"},
    "_caller": set(),
    "_guarded": set(),
    "_health_data": set(),
    "_patient": set(),
    "_serving": {"errors"},
    "checks": {"errors", "_alerts", "_cgroup", "_check", "_labels", "_ping"},
    "_probe": {"errors", "_command_line"},
    "_advice": {"errors", "_command_line"},
    "_command_line": {"errors"},
    "_resources": {"_process", "_cgroup", "_gpu", "_source", "_ticker", "_per_process"},
    "_source": {"_background", "_per_process"},
    "_ticker": {"_background", "_per_process"},
    "_background": {"_per_process"},
    "_cgroup": set(),
    "_gpu": set(),
    "_per_process": set(),
    "_process": set(),
}
TOPS = {"redis_consumer", "redis_producer", "health_server", "health", "dead_letters", "checks"}
"""Modules that programs put together, and that nothing below may know."""


def python(code: str) -> str:
    """What a fresh interpreter prints; it must print nothing else, and fail at nothing."""
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
def test_every_exported_name_loads_from_its_documented_home(name: str) -> None:
    loaded = getattr(shared_sync, name)
    home = loaded.__module__
    assert getattr(importlib.import_module(home), name) is loaded
    assert not home.rpartition(".")[2].startswith("_")
    assert shared_sync.__doc__
    assert home in shared_sync.__doc__


@pytest.mark.parametrize(("name", "home"), HOMES.items())
def test_the_promised_names_stay_where_they_are(name: str, home: str) -> None:
    assert name in shared_sync.__all__
    assert getattr(shared_sync, name).__module__ == home


def test_the_exported_names_are_sorted_and_listed_once() -> None:
    assert shared_sync.__all__ == sorted(set(shared_sync.__all__))


def test_the_exported_names_are_shown_and_others_are_missing_in_the_usual_way() -> None:
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
    assert imported == {name: getattr(shared_sync, name).__module__ for name in shared_sync.__all__}


def test_every_error_has_the_one_base_and_is_drawn_in_the_tree() -> None:
    from shared_sync import errors  # noqa: PLC0415

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len(kinds) > 10
    for kind in kinds:
        assert issubclass(kind, errors.SharedSyncError | errors.Directive)
        assert kind.__name__ in (errors.__doc__ or "")
        assert kind.__doc__


# --- what an import costs ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "module",
    [
        "shared_sync",
        "shared_sync.metrics",
        "shared_sync.checks",
        "shared_sync._resources",
        "shared_sync.errors",
        "shared_sync.policies",
        "shared_sync.health",
        "shared_sync._probe",
        "shared_sync._advice",
    ],
)
def test_importing_it_loads_neither_redis_nor_flask(module: str) -> None:
    printed = python(
        f"import sys, {module}; print(sorted({{n.partition('.')[0] for n in sys.modules}}))"
    )
    assert not set(OUTSIDERS) & set(ast.literal_eval(printed))


def test_a_health_server_loads_no_redis_and_a_consumer_no_flask() -> None:
    code = "import sys, shared_sync.{}; print([n for n in {!r} if n in sys.modules])"
    assert python(code.format("health_server", ["redis"])) == "[]"
    web = ["flask", "waitress", "werkzeug"]
    assert python(code.format("redis_consumer", web)) == "[]"
    assert python(code.format("redis_producer", web)) == "[]"


IMPORTABLE = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem[:2] != "__")


@pytest.fixture(scope="module")
def threads_after_importing() -> Iterator[dict[str, Future[str]]]:
    """For each module a program that imports it first; two run at a time."""
    code = "import threading, shared_sync.{}; print(threading.active_count())"
    with ThreadPoolExecutor(2) as two:
        yield {module: two.submit(python, code.format(module)) for module in IMPORTABLE}


@pytest.mark.parametrize("module", IMPORTABLE)
def test_importing_any_module_first_works_and_starts_nothing(
    threads_after_importing: dict[str, Future[str]], module: str
) -> None:
    assert threads_after_importing[module].result() == "1"


# --- which way imports point ------------------------------------------------------------------


def modules() -> dict[str, Path]:
    """Ours by name, `dashboard.page` and the like included."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path
    return found


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Top-level names of others' packages, and names of our modules, that a file imports.

    Imports within functions count; those for type checkers alone do not.
    """
    others: set[str] = set()
    ours: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                visit(child)
            return
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: write imports in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            top, _, rest = name.partition(".")
            if top == "shared_sync":
                ours.add(rest.partition(".")[0])
            else:
                others.add(top)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return others, ours & set(MODULES)


MODULES = modules()
IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def importers_of(outsider: str) -> set[str]:
    return {name for name, (others, _) in IMPORTS.items() if outsider in others}


def is_program(name: str) -> bool:
    """One that nothing of ours imports, unless that is a program itself."""
    users = {user for user, (_, ours) in IMPORTS.items() if name in ours and user != "__init__"}
    return all(user == "__main__" or is_program(user) for user in users - {name})


def test_redis_is_imported_only_where_it_is_reached() -> None:
    assert importers_of("redis") == {"_address", "_link", "_servers"}


def test_flask_and_waitress_are_imported_in_one_place_each() -> None:
    for outsider in ("flask", "werkzeug"):
        assert importers_of(outsider) == {"health_server"}
    assert importers_of("waitress") == {"_serving"}


def test_the_gpus_library_is_imported_only_when_it_is_asked() -> None:
    assert importers_of("pynvml") == set()


@pytest.mark.parametrize("island", ISLANDS)
def test_islands_know_only_what_they_are_built_on(island: str) -> None:
    assert IMPORTS[island][1] <= ISLANDS[island]
    assert "redis" not in IMPORTS[island][0]


def test_imports_never_run_in_a_circle() -> None:
    done: set[str] = set()

    def descend(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name in done:
            return
        for below in sorted(IMPORTS[name][1]):
            descend(below, (*above, name))
        done.add(name)

    for name in sorted(MODULES):
        descend(name, ())


@pytest.mark.parametrize("top", sorted(TOPS & set(MODULES)))
def test_only_programs_put_the_tops_together(top: str) -> None:
    for name, (_, ours) in IMPORTS.items():
        if top in ours and name not in TOPS:
            assert name.startswith("__") or is_program(name), f"{name} imports {top}"


def test_nothing_but_programs_imports_the_consumer_or_the_health_command() -> None:
    for name, (_, ours) in IMPORTS.items():
        if {"redis_consumer", "health"} & ours:
            assert name == "__main__" or is_program(name), name


def test_the_front_door_imports_none_of_ours_before_it_is_asked() -> None:
    assert IMPORTS["__init__"][1] == set()


def test_the_foundations_know_nothing_of_what_is_built_on_them() -> None:
    bottom = {"errors", "message", "_backoff", "_check"}
    assert IMPORTS["errors"][1] == set()
    assert IMPORTS["_backoff"][1] == set()
    assert IMPORTS["_lifecycle"][1] == set()
    assert IMPORTS["message"][1] <= {"errors"}
    assert IMPORTS["policies"][1] <= bottom
    assert IMPORTS["_scripts"][1] == set()
    assert IMPORTS["_link"][1] <= {*bottom, "_scripts"}
    assert IMPORTS["_address"][1] <= bottom
    assert IMPORTS["_servers"][1] <= {*bottom, "_link", "_address"}
    assert IMPORTS["_streams"][1] <= {*bottom, "_scripts", "_link"}
    assert IMPORTS["_ping"][1] <= {*bottom, "_link", "_address", "_servers", "_per_process"}
    assert IMPORTS["_group_view"][1] <= {*bottom, "_link", "_streams", "_holder"}


def test_what_judges_a_consumer_cannot_ask_redis() -> None:
    below = {"errors", "_guarded", "_in_hand", "_lifecycle", "_connectivity"}
    assert IMPORTS["_connectivity"][1] <= {"errors", "_guarded"}
    assert IMPORTS["_in_hand"][1] <= {"_patient", "_streams"}
    assert IMPORTS["_budget"][1] <= below
    assert IMPORTS["_progress"][1] <= {*below, "_budget"}
    assert IMPORTS["_verdict"][1] <= {*below, "_budget", "_progress"}


# --- what is in the package -------------------------------------------------------------------


def test_the_files_that_are_no_modules_are_packaged() -> None:
    data = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("[!.]*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    }
    data = {name for name in data if not name.startswith(".")}  # caches of tools
    assert {"py.typed", "_lua/finish.lua"} <= data
    assert {name for name in data if not (PACKAGE / name).is_file()} == set()


def test_the_scripts_are_found_where_the_package_is_installed() -> None:
    from shared_sync import _scripts  # noqa: PLC0415

    stems = {path.stem for path in (PACKAGE / "_lua").glob("*.lua")}
    assert set(_scripts.scripts()) == stems - {"common"}


def test_the_version_is_a_plain_number() -> None:
    assert all(part.isdigit() for part in shared_sync.__version__.split("."))
