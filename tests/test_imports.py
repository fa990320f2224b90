"""Imports point down: a package or module imports only from those below it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "shared_sync"
LEVELS: tuple[set[str], ...] = (
    {"errors", "job_control", "values"},
    {"common", "message"},
    {"logging", "tracing"},
    {"policies", "metrics", "connection", "batching", "circuit_breaker"},
    {"processors"},
    {"protocol", "health_server"},
    {"group_status", "isolation", "result_listener"},
    {"redis_consumer", "redis_producer", "dead_letters", "checks"},
    {"group_actions"},
    {"demo", "testing"},
    {"cli"},
    {"health", "__main__"},
)
"""From the bottom to the top. What stands on one level does not import what stands beside it."""

LEVEL_OF = {part: level for level, parts in enumerate(LEVELS) for part in parts}
USERS_OF_OTHERS = {
    "redis": {"connection"},
    "flask": {"health_server", "demo"},
    "werkzeug": {"health_server", "demo"},
    "waitress": {"health_server", "demo"},
    "prometheus_client": {"common", "metrics", "cli"},
    "opentelemetry": {"tracing"},
    "pytest": {"testing"},
    "pynvml": set(),
}
"""The packages of ours that may import a library. NVIDIA's is loaded by name, where it is asked."""

KEPT_APART = (
    ("metrics", "health_server"),
    ("metrics", "connection"),
    ("health_server", "connection"),
)


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imports_of(path: Path) -> tuple[set[str], set[str]]:
    """Names of libraries, and of our modules, that a file imports, within functions as well.

    What is imported for type checkers alone does not count.
    """
    libraries: set[str] = set()
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
            if name.partition(".")[0] == "shared_sync":
                module = name if name in MODULES else name.rpartition(".")[0]
                ours.add(module)
            else:
                libraries.add(name.partition(".")[0])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return libraries, ours


@cache
def imports() -> dict[str, tuple[set[str], set[str]]]:
    """What each module imports. Read when it is needed: each process of the suite collects this."""
    return {name: imports_of(path) for name, path in MODULES.items()}


def part_of(module: str) -> str:
    """The package or top-level module that a module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def test_every_package_has_a_level() -> None:
    assert {part_of(module) for module in MODULES} - {"__init__"} == set(LEVEL_OF)


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"shared_sync"}))
def test_imports_point_down(module: str) -> None:
    here = part_of(module)
    for imported in imports()[module][1] - {"shared_sync"}:
        there = part_of(imported)
        assert there == here or LEVEL_OF[there] < LEVEL_OF[here], f"{module} imports {imported}"


@pytest.mark.parametrize(("one", "other"), KEPT_APART)
def test_packages_that_are_kept_apart_do_not_reach_each_other(one: str, other: str) -> None:
    for start, end in ((one, other), (other, one)):
        reached, waiting = set(), [name for name in MODULES if part_of(name) == start]
        while waiting:
            module = waiting.pop()
            if module not in reached:
                reached.add(module)
                waiting += imports()[module][1] & set(MODULES)
        assert not {module for module in reached if part_of(module) == end}


@pytest.mark.parametrize("library", USERS_OF_OTHERS)
def test_a_library_is_imported_by_its_one_package(library: str) -> None:
    users = {part_of(name) for name, (libraries, _) in imports().items() if library in libraries}
    assert users == USERS_OF_OTHERS[library]


def test_imports_never_run_in_a_circle() -> None:
    done: set[str] = set()

    def descend(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name in done:
            return
        for below in sorted((imports()[name][1] & set(MODULES)) - {"shared_sync"}):
            descend(below, (*above, name))
        done.add(name)

    for name in sorted(MODULES):
        descend(name, ())


def test_the_front_door_imports_none_of_ours_before_it_is_asked() -> None:
    assert imports()["shared_sync"][1] == set()
