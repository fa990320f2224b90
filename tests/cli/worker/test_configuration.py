"""The effective configuration: where each value comes from, and what is said about bad ones."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared_sync.cli.main import main
from shared_sync.cli.worker.settings import SETTINGS

PROGRAM = """
from shared_sync import CircuitBreaker, RetryPolicy, WorkerMetrics

def process(message_id, job): ...
def process_batch(messages): return [None for _ in messages]
def takes_one(job): ...
async def promises(message_id, job): ...
def make(context): return process
class Model:
    def __init__(self, context): ...
    def process(self, message_id, job): ...
class Provider:
    def get_credentials(self): return ("secret",)
class Broken(Exception): ...
policy = RetryPolicy(max_attempts=2)
breaker = CircuitBreaker(name="translator")
metrics = WorkerMetrics("mine")
def cost(message): return 1
"""
WORDS = ("worker", "app_of_test:process", "--stream", "jobs", "--group", "stt")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with the module of a program; no variables, and no trace afterwards."""
    (tmp_path / "app_of_test.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    names = {name for one in SETTINGS.values() for name in one.all_variables}
    for name in [*names, "SHARED_SYNC_CONFIG", "HEALTH_TOKEN"]:
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    sys.path[:] = path
    sys.modules.pop("app_of_test", None)


@pytest.fixture
def printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """What `--print-config --json` prints with these options: each setting as (value, source)."""

    def read(*options: str) -> dict[str, Any]:
        assert main([*WORDS, "--print-config", "--json", *options]) == 0
        document = json.loads(capsys.readouterr().out)
        found = {one["name"]: (one["value"], one["source"]) for one in document["settings"]}
        return {**found, "warnings": document["warnings"]}

    return read


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The error of a command line that cannot work."""
    assert main(list(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("shared-sync: ")


def test_an_option_counts_before_a_variable_and_that_before_the_file(
    printed: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "[shared_sync]\nlease-seconds = 10\nthreads = 3  # a GPU each\ndrain_seconds = 7\n"
    (folder / "worker.ini").write_text(f"[other]\nx = 1\n{text}")
    monkeypatch.setenv("SHARED_SYNC_CONFIG", "worker.ini")
    monkeypatch.setenv("SHARED_SYNC_LEASE_SECONDS", "20")
    monkeypatch.setenv("SHARED_SYNC_THREADS", "2")
    monkeypatch.setenv("WORKER_ID", "stt-7")
    monkeypatch.setenv("STREAM_NAME", "ignored")
    monkeypatch.setenv("SHARED_SYNC_BLOCK_SECONDS", "")
    found = printed("--lease-seconds", "40", "--no-details", "--max-failure-share", "none")
    assert found["lease_seconds"] == (40.0, "--lease-seconds")
    assert found["threads"] == (2, "SHARED_SYNC_THREADS")
    assert found["drain_seconds"] == (7.0, "drain_seconds in worker.ini")
    assert found["consumer_id"] == ("stt-7", "WORKER_ID")
    assert found["stream"] == ("jobs", "--stream")
    assert found["block_seconds"] == (1.0, "default")
    assert found["max_failure_share"] == (None, "--max-failure-share")
    assert found["warnings"] == []


def test_secrets_are_masked(printed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://worker:s3cret@redis:6379/0")
    monkeypatch.setenv("HEALTH_TOKEN", "t0ken")
    found = printed()
    assert found["redis_url"] == ("redis://***@redis:6379/0", "REDIS_URL")
    assert found["token"] == ("***", "HEALTH_TOKEN")


def test_the_address_of_a_service_of_kubernetes_is_no_port(
    printed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEALTH_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("SHARED_SYNC_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("SHARED_SYNC_LEASE_SECOND", "20")
    found = printed()
    assert found["health_port"] == (8080, "default")
    address, mistyped = found["warnings"]
    assert "HEALTH_PORT is ignored" in address
    assert "enableServiceLinks: false" in address
    assert mistyped.endswith(
        "LEASE_SECOND is no setting and is ignored; did you mean lease_seconds?"
    )


def test_parts_are_taken_from_modules_of_the_program(printed: Any) -> None:
    module = "app_of_test"
    found = printed(
        *("--retry", f"{module}:policy", "--circuit-breakers", f"{module}:breaker"),
        *("--fatal-errors", f"torch.AcceleratorError,{module}:Broken"),
        *("--metrics", f"{module}:metrics", "--credential-provider", f"{module}:Provider"),
        *("--redis-url", "redis://localhost:6379/0"),
    )
    assert found["fatal_errors"][0] == ["torch.AcceleratorError", "app_of_test:Broken"]


@pytest.mark.parametrize(
    "words",
    [
        "app_of_test:Model --devices cuda:0,cuda:1 --threads 2",
        "app_of_test:make --factory",
        "app_of_test:process_batch --batch 8 --batch-cost app_of_test:cost --batch-max-cost 9",
        "app_of_test:Model --batch 8",
        "app_of_test:process --isolation process",
        "app_of_test:process --health-port none",
    ],
)
def test_the_processor_may_be(folder: Path, words: str) -> None:
    assert main(["worker", *words.split(), *WORDS[2:], "--print-config"]) == 0


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("app_of_test.py", "name the module, not its file: app_of_test:NAME"),
        ("app_of_test", "write the name of the function behind a colon: app_of_test:NAME"),
        ("app_of_test:proces", "did you mean process"),
        ("app_of_tes:process", "there is no module 'app_of_tes'"),
        ("app_of_tes:process --isolation process", "there is no module 'app_of_tes'"),
        ("app_of_test:takes_one", "called with two arguments, message_id and message_data"),
        ("app_of_test:promises", "plain function that blocks"),
        ("app_of_test:process --batch 8", "called with one argument, the messages"),
        ("app_of_test:process --batch-wait-seconds 1", "--batch-wait-seconds needs --batch N"),
        ("app_of_test:process --threads many", "--threads must be a whole number, 1 to 1000"),
        ("app_of_test:process --health-port tcp://1.2.3.4:5", "--health-port must be an int from"),
        ("app_of_test:process --devices cuda:0", "devices needs processor_factory"),
        ("app_of_test:process --retry app_of_test:policy --retry-jitter 0", "exclude each other"),
        ("app_of_test:process --retry app_of_test:process", "retry must be a RetryPolicy"),
        ("app_of_test:process --actions", "--actions needs a token"),
        ("app_of_test:process --lease 3", "unrecognized arguments: --lease"),
    ],
)
def test_what_cannot_work_is_refused_with_a_remedy(
    folder: Path, capsys: pytest.CaptureFixture[str], words: str, remedy: str
) -> None:
    capsys.readouterr()
    assert main(["worker", *words.split(), *WORDS[2:], "--print-config"]) == 2
    assert remedy in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("[shared_sync]\nlease_second = 1\n", "no setting 'lease_second'; did you mean lease_sec"),
        ("[shared_sync]\nstream = 'jobs'\n", "write the value of stream without quotation marks"),
        ("[shared_sync]\ndevices = [cuda:0]\n", "devices in worker.ini must be names with commas"),
        ("[shared_sync]\nthreads = 0\n", "threads in worker.ini must be a whole number"),
        ("[worker]\n", "worker.ini has no section [shared_sync]; it has [worker]"),
        ("threads = 1\n", "cannot be understood: line 1 stands before the first section; begin"),
        (
            "[shared_sync]\ns3cret\n",
            "--config worker.ini cannot be understood: not NAME = VALUE: line 2",
        ),
        (None, "--config worker.ini cannot be read: No such file or directory"),
    ],
)
def test_a_mistake_in_the_file_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str | None, remedy: str
) -> None:
    if text is not None:
        (folder / "worker.ini").write_text(text)
    error = refused(capsys, *WORDS, "--config", "worker.ini")
    assert remedy in error
    assert "s3cret" not in error


def test_what_is_missing_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, *WORDS[:4])
    assert error.startswith("--group is missing; give it, or set CONSUMER_GROUP, or group in the")
    assert os.getcwd() not in sys.path
