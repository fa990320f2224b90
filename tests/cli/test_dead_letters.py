"""Dead letters from the command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import redis
from consumers import DEAD, GROUP, STREAM, bury

from shared_sync import DeadLetters
from shared_sync.__main__ import main


@pytest.fixture
def where(redis_url: str) -> tuple[str, ...]:
    """What every command begins with."""
    return ("dead-letters", "--redis-url", redis_url, "--stream", STREAM, "--group", GROUP)


@pytest.fixture
def command(where: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that goes well; what it prints."""

    def run(*arguments: str) -> str:
        assert main([*where, *arguments]) == 0
        return capsys.readouterr().out

    return run


def test_the_command_lists_shows_replays_and_purges(
    redis_url: str,
    command: Callable[..., str],
    client: redis.Redis,
) -> None:
    bury(redis_url, {"name": "a", "audio": b"\xff" * 1000}, {"name": "b"}, {"name": "c"})
    with DeadLetters(redis_url, STREAM, GROUP) as letters:
        first, second, _ = letters
    listed = command("list").splitlines()
    assert len(listed) == 3
    assert listed[0].startswith(first.id)
    assert "rejected: no use" in listed[0]
    shown = command("show", first.id)
    assert "name = a" in shown
    assert "(1000 bytes)" in shown
    assert f"{first.id} replayed as" in command("replay", first.id)
    assert client.xlen(STREAM) == 1
    assert command("purge", second.id) == "1 removed\n"
    command("replay", "--all")
    assert command("list") == ""
    assert client.xlen(DEAD) == 0
    assert client.xlen(STREAM) == 2


def test_the_command_reports_a_mistake_in_one_line(where: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shared_sync", *where, "show", "1-1"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("shared_sync: there is no dead letter '1-1'")
    assert len(done.stderr.splitlines()) == 1
    with pytest.raises(SystemExit, match=r"^2$"):
        main([*where, "replay"])
