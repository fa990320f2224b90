"""README and docs/: programs run, links lead somewhere, and every argument is documented."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from helpers import ENVIRONMENT, ask, eventually, free_port, start_program

import shared_sync
from shared_sync import (
    CircuitBreaker,
    DeadLetters,
    HealthServer,
    RedisStreamConsumer,
    RedisStreamProducer,
    RetryPolicy,
    WorkerMetrics,
    checks,
    errors,
)

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(
            path
            for name in ("docs", "examples", "benchmarks")
            for path in (ROOT / name).glob("*.md")
        ),
    ]
)
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()


def page_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_of_docs_is_in_the_table_of_contents() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"]({page.name})" in index, page.name


def public_names() -> set[str]:
    """The public names, with their modules: what packages export, and what else is documented."""
    names = set()
    for name in shared_sync.__all__:
        package, module, *_ = getattr(shared_sync, name).__module__.split(".")
        names.add(f"{package}.{module}.{name}")
    for found in pkgutil.iter_modules(shared_sync.__path__, "shared_sync."):
        module = importlib.import_module(found.name)
        names |= {f"{found.name}.{name}" for name in getattr(module, "__all__", ())}
    for module in (checks, errors):
        names |= {
            f"{module.__name__}.{name}"
            for name, value in vars(module).items()
            if getattr(value, "__module__", "") == module.__name__
            and (inspect.isclass(value) if module is errors else inspect.isfunction(value))
            and not name.startswith("_")
        }
    return names


def test_the_api_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    _, *parts = re.split(r"^## (shared_sync\.\w+)$", page, flags=re.MULTILINE)
    listed = {
        f"{module}.{name}"
        for module, text in zip(parts[::2], parts[1::2], strict=True)
        for name in re.findall(r"^- `(\w+)`", text, re.MULTILINE)
    }
    assert listed == public_names()


def test_every_test_that_the_field_reports_name_exists() -> None:
    page = (ROOT / "docs" / "field-reports.md").read_text()
    named = re.findall(r"`(tests/[^`:]+)(?:::(\w+))?", page)
    assert named
    for path, name in named:
        text = (ROOT / path).read_text()
        assert f"def {name}(" in text if name else text, f"{path}::{name}"


def test_every_field_report_names_a_test_or_the_place_that_defends_it() -> None:
    page = (ROOT / "docs" / "field-reports.md").read_text()
    rows = re.findall(r"^\|(.*)\|$", page, re.MULTILINE)
    reports = [row for row in rows if not row.startswith((" input ", "---"))]
    assert reports
    for row in reports:
        assert "`tests/" in row or ("defended" in row and "docs/" in row), row


@pytest.mark.parametrize(
    ("heading", "documented"),
    [
        ("RedisStreamConsumer", RedisStreamConsumer),
        ("Retries", RetryPolicy),
        ("Circuit breakers", CircuitBreaker),
        ("RedisStreamProducer", RedisStreamProducer),
        ("RedisStreamProducer", RedisStreamProducer.publish),
        ("RedisStreamProducer", RedisStreamProducer.publish_many),
        ("DeadLetters", DeadLetters),
        ("HealthServer", HealthServer),
        ("HealthServer", HealthServer.add_check),
        ("HealthServer", HealthServer.add_view),
        ("WorkerMetrics", WorkerMetrics),
    ],
)
def test_every_argument_is_documented(heading: str, documented: object) -> None:
    (section,) = re.findall(
        rf"^#+ {heading}\n(.*?)(?=^## |\Z)", CONFIGURATION, re.MULTILINE | re.DOTALL
    )
    assert callable(documented)
    for name in set(inspect.signature(documented).parameters) - {"self"}:
        assert re.search(rf"`[^`]*\b{name}\b[^`]*`", section), name


def test_the_readme_has_the_two_commands_of_a_newcomer() -> None:
    commands = re.findall(r"^    (python3 -m venv .*)$", README, re.MULTILINE)
    demo, tests = commands
    assert demo.endswith(" && . .venv/bin/activate && pip install -q '.[demo]' && shared-sync demo")
    assert tests.endswith(" .venv/bin/pytest")


def programs(page: str, redis_url: str) -> list[str]:
    text = (ROOT / page).read_text()
    return [
        program.replace("redis://localhost:6379/0", redis_url)
        for program in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    ]


MODEL = """
class Engine:
    def run(self, texts):
        return [text.upper() for text in texts]

    translate = run


def load_model(device):
    assert device == "cuda:0", device  # the only one that the child sees
    return Engine()
"""


@pytest.mark.parametrize(("page", "stream"), [("README.md", "texts"), ("docs/gpu.md", "jobs")])
def test_the_worker_for_models_works(
    page: str, stream: str, redis_url: str, client: redis.Redis, tmp_path: Path
) -> None:
    *_, program = programs(page, redis_url)
    assert 'devices=["cuda:0", "cuda:1"]' in program
    program = program.replace("batch=", 'result_stream="results", batch=')
    file = tmp_path / "program.py"
    file.write_text(program.replace("\n\n\n", MODEL, 1))
    process = start_program([sys.executable, str(file)], cwd=tmp_path, env=ENVIRONMENT)
    try:
        with RedisStreamProducer(redis_url, stream) as producer:
            producer.publish_many([{"text": "one"}, {"text": "two"}])
        eventually(lambda: client.xlen("results") == 2, within=30)
        results = {fields[b"result"] for _, fields in client.xrange("results")}
        assert results == {b"ONE", b"TWO"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_the_worker_and_the_gateway_in_the_readme_work_together(
    redis_url: str, tmp_path: Path
) -> None:
    _, worker, gateway, _ = programs("README.md", redis_url)
    port = free_port()
    assert "8081" in worker
    (tmp_path / "speech.wav").write_bytes(b"speech")
    process = start_program(
        [sys.executable, "-c", worker.replace("8081", str(port))], cwd=tmp_path, env=ENVIRONMENT
    )
    try:
        asked = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", gateway],
            cwd=tmp_path,
            env=ENVIRONMENT,
            timeout=60,
            check=True,
            capture_output=True,
            text=True,
        )
        assert asked.stdout == "6 bytes of speech\n"
        assert ask(f"http://127.0.0.1:{port}/health")[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_the_map_of_the_code_names_only_files_that_exist_and_every_module_of_the_core() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    folders = (ROOT / "shared_sync", ROOT / "tests")
    there = [
        f"/{path.relative_to(ROOT).as_posix()}"
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix in (".py", ".lua")
    ]
    for name in re.findall(r"[\w/]+\.(?:py|lua)\b", page):
        assert any(path.endswith(f"/{name}") for path in there), f"there is no {name}"
    for package in ("redis_consumer", "protocol", "connection", "common"):
        for path in (ROOT / "shared_sync" / package).glob("[!_]*.py"):
            assert path.name in page, f"{package}/{path.name} is not on the map"
