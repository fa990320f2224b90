"""docs/operation.md says what to do about everything that the library complains of."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import yaml
from documented_code import ROOT

from shared_sync.redis_consumer.job_budget import Job

PACKAGE = ROOT / "shared_sync"
RUNBOOK = (ROOT / "docs" / "operation.md").read_text()

REASONED = [
    *(PACKAGE / "redis_consumer").rglob("*.py"),
    PACKAGE / "errors.py",
    PACKAGE / "connection" / "availability.py",
]
"""Where the reasons of a worker's health are written."""

PARTLY_IN_PROSE = ("stopped", "waiting for Redis", "loading processors", "waiting for the name")
"""Reasons that stand below the heading of another one."""


def headings(section: str) -> list[str]:
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", RUNBOOK, re.M | re.S)
    return re.findall(r"^### (.+)$", text, re.M)


def test_each_alert_is_in_the_runbook() -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())
    alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    assert headings("Alerts") == alerts


def test_each_problem_of_a_group_is_in_the_runbook() -> None:
    named = {
        name
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r'\bProblem\(\s*"(\w+)"', path.read_text())
    }
    hazards = (PACKAGE / "protocol" / "hazards.py").read_text()
    named |= set(re.findall(r'^[A-Z_]+: Final = "(\w+)"$', hazards, re.M))
    assert set(headings("Problems of a group")) == named


def test_each_reason_in_the_runbook_is_one_of_the_code() -> None:
    late = [job_reason(is_over_its_limit=over) for over in (True, False)]
    written = "\n".join([*late, *(text for path in REASONED for text in texts(path))])
    for heading in headings("Reasons of a worker"):
        assert heading in written, heading


def test_each_reason_of_a_worker_is_in_the_runbook() -> None:
    known = headings("Reasons of a worker")
    for mention in PARTLY_IN_PROSE:
        assert mention in RUNBOOK
    for reason in reasons():
        mentions = (*known, *PARTLY_IN_PROSE)
        assert any(each in reason or reason in each for each in mentions), reason


def test_the_page_has_a_remedy_for_each_reason_in_the_runbook() -> None:
    page = (PACKAGE / "health_server/dashboard/remedies.js").read_text()
    remedies = re.findall(r'^  \["([^"]+)", "', page, re.M)
    assert set(headings("Reasons of a worker")) == set(remedies) - {"does not answer"}


def job_reason(*, is_over_its_limit: bool) -> str:
    """Return the reason for a job that takes too long."""
    running = SimpleNamespace(reader="reader-1", entry=SimpleNamespace(id="1-0"), seconds=91.0)
    late = SimpleNamespace(
        running=running, is_over_its_limit=is_over_its_limit, limit_seconds=90, budget_seconds=60
    )
    return Job.reason(late)  # type: ignore[arg-type]


def texts(path: Path) -> Iterator[str]:
    """Return the texts of a module, each as a whole; what is filled in is left out."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value for part in node.values if isinstance(part, ast.Constant))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def reasons() -> Iterator[str]:
    """Return the reasons of a consumer's health, where they are put together and where not."""
    source = (PACKAGE / "redis_consumer" / "health.py").read_text()
    for node in ast.walk(ast.parse(source)):
        is_append = isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".append")
        if is_append and (found := "".join(fragments(node)).strip(": ")):
            yield found
    yield from ("not started", "starting", "draining", "stopped", "started in another process")


def fragments(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value
