"""The address and password of Redis on the command line, in the environment and in a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from consumers import GROUP, STREAM
from helpers import ENVIRONMENT, ask, eventually, health_command

from shared_sync.__main__ import main
from shared_sync.cli.redis_options import PasswordFile
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import ConfigurationError

SECRET = "s3cr3t"
WHERE = ("--stream", STREAM, "--group", GROUP, "list")


@pytest.fixture
def guarded(own_server: EmbeddedRedis) -> EmbeddedRedis:
    """A server that asks for a password, and has a group."""
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        admin.xgroup_create(STREAM, GROUP, mkstream=True)
        admin.execute_command("ACL", "SETUSER", "worker", "on", f">{SECRET}", "~*", "+@all")
        admin.config_set("requirepass", SECRET)
    return own_server


@pytest.mark.parametrize(
    "form", ["redis://:{s}@{h}", "redis://worker:{s}@{h}", "redis://{h}?password={s}"]
)
def test_a_password_on_the_command_line_works_with_a_warning_that_does_not_show_it(
    guarded: EmbeddedRedis, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = form.format(s=SECRET, h=f"127.0.0.1:{guarded.port}")
    assert main(["dead-letters", "--redis-url", url, *WHERE]) == 0
    warning = capsys.readouterr().err
    assert "everybody on this machine can read" in warning
    assert "set REDIS_URL instead" in warning
    assert SECRET not in warning


@pytest.mark.parametrize("url", ["redis://h:6379/0", "redis://worker@h", "redis+cluster://a:1,b:2"])
def test_an_address_without_a_password_brings_no_warning(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["dead-letters", "--redis-url", url, "--help"])
    assert "warning" not in capsys.readouterr().err


def test_a_password_in_the_environment_or_a_file_brings_no_warning(
    guarded: EmbeddedRedis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("REDIS_URL", guarded.url.replace("://", f"://:{SECRET}@"))
    assert main(["dead-letters", *WHERE]) == 0
    monkeypatch.setenv("REDIS_URL", guarded.url)
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    given = ("dead-letters", "--redis-password-file", str(file))
    for user in ((), ("--redis-user", "worker")):
        assert main([*given, *user, *WHERE]) == 0
    assert set(capsys.readouterr().err.splitlines()) == {"no dead letters"}
    monkeypatch.setenv("REDIS_URL", guarded.url.replace("://", f"://:{SECRET}@"))
    assert main([*given, *WHERE]) == 2
    assert "leave them out of redis_url" in capsys.readouterr().err


def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dead-letters", "--redis-password-file", "/nowhere/x", *WHERE]) == 2
    assert "--redis-password-file /nowhere/x cannot be read: No such" in capsys.readouterr().err
    assert main(["dead-letters", "--redis-user", "worker", *WHERE]) == 2
    assert "--redis-user needs --redis-password-file" in capsys.readouterr().err
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        PasswordFile(str(binary), None)


def test_the_health_command_follows_a_password_that_is_rotated(
    guarded: EmbeddedRedis, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET)
    given = ("--port", "0", "--redis-url", guarded.url, "--redis-password-file", str(file))
    group = ("--stream", "jobs", "--group", "workers")
    url = guarded.url.replace("://", f"://:{SECRET}@")
    with (
        health_command(*given, *group, "--redis-user", "worker", env=ENVIRONMENT) as page,
        redis.Redis.from_url(url, protocol=2) as admin,
    ):
        eventually(lambda: ask(f"{page}/health")[0] == 200)
        admin.execute_command("ACL", "SETUSER", "worker", "resetpass", ">another")
        admin.client_kill_filter(user="worker")
        eventually(lambda: ask(f"{page}/health")[0] == 500)
        file.write_text("another")
        eventually(lambda: ask(f"{page}/health")[0] == 200)
        eventually(lambda: "parked" in ask(f"{page}/api/state")[1]["views"]["group"]["data"])
