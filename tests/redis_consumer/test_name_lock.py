"""A locked file proves that the process which had a name has ended, and never that one which lives
has."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from consumers import Make
from helpers import eventually, in_a_fork, start_program

from shared_sync.protocol.keys import Keys
from shared_sync.protocol.process_identity import ProcessIdentity
from shared_sync.redis_consumer.name_lock import NameLock

KEYS = Keys.of("jobs", "workers")
ELSEWHERE = "pid:[1]"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of this process and those that it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def identity() -> ProcessIdentity:
    """A process of another container under this kernel."""
    here = ProcessIdentity.here()
    return replace(here, machine=f"{here.machine.partition(' ')[0]} {ELSEWHERE}")


@pytest.fixture
def lock() -> NameLock:
    return NameLock(KEYS, "stt")


HOLDER = """
    import sys, threading
    from shared_sync.protocol.keys import Keys
    from shared_sync.protocol.process_identity import ProcessIdentity
    from shared_sync.redis_consumer.name_lock import NameLock

    lock = NameLock(Keys.of("jobs", "workers"), "stt")
    lock.hold(ProcessIdentity.parse(sys.argv[1]))
    print("held", flush=True)
    threading.Event().wait(600)
"""


@contextmanager
def holding(identity: ProcessIdentity) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock with this identity."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), identity.text()]
    with start_program(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_the_end_of_a_process_that_was_killed_is_proved(
    lock: NameLock, identity: ProcessIdentity
) -> None:
    with holding(identity) as process:
        assert not lock.proves_the_end_of(identity)
        process.send_signal(signal.SIGSTOP)
        assert not lock.proves_the_end_of(identity), "a stopped process has not ended"
        process.kill()
        process.wait()
        assert lock.proves_the_end_of(identity)
        assert lock.proves_the_end_of(identity), "asking changes nothing"


def test_nothing_is_proved_of_a_process_that_has_not_locked_that_file(
    lock: NameLock, identity: ProcessIdentity, folder: Path
) -> None:
    assert not lock.proves_the_end_of(identity)
    with holding(identity) as process:
        process.kill()
    assert lock.proves_the_end_of(identity)
    for other in (
        replace(identity, token="another"),
        replace(identity, host="another"),
        replace(identity, machine=f"another-boot {ELSEWHERE}"),
        replace(identity, machine=""),
    ):
        assert not lock.proves_the_end_of(other)
    assert not NameLock(KEYS, "another").proves_the_end_of(identity)


def test_a_copy_of_the_file_proves_nothing(
    lock: NameLock, identity: ProcessIdentity, folder: Path
) -> None:
    """As in an image that was made of a running container."""
    with holding(identity):
        (file,) = folder.iterdir()
        copy = folder / "copy"
        shutil.copy2(file, copy)
        file.unlink()
        copy.rename(file)
        assert not lock.proves_the_end_of(identity)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"x" * 5000])
def test_a_file_that_makes_no_sense_proves_nothing(
    lock: NameLock, identity: ProcessIdentity, folder: Path, content: bytes
) -> None:
    lock.hold(identity)
    (file,) = folder.iterdir()
    lock.forget()
    assert lock.proves_the_end_of(identity)
    file.write_bytes(content)
    assert not lock.proves_the_end_of(identity)


def test_a_link_or_a_file_of_another_user_is_left_alone(
    lock: NameLock, identity: ProcessIdentity, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock.hold(identity)
    (file,) = folder.iterdir()
    lock.release()
    victim = folder / "victim"
    victim.write_text("important")
    file.symlink_to(victim)
    lock.hold(identity)
    assert victim.read_text() == "important"
    file.unlink()
    victim.rename(file)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    lock.hold(identity)
    assert file.read_text() == "important"
    assert not lock.proves_the_end_of(identity)


def test_without_a_folder_for_temporary_files_nothing_is_proved(
    lock: NameLock, identity: ProcessIdentity, folder: Path
) -> None:
    folder.rmdir()
    lock.hold(identity)
    assert not lock.proves_the_end_of(identity)
    lock.release()


def test_a_lock_that_is_given_up_leaves_no_file(
    lock: NameLock, identity: ProcessIdentity, folder: Path
) -> None:
    lock.hold(identity)
    lock.release()
    lock.release()
    assert list(folder.iterdir()) == []


def test_only_the_process_itself_unlocks_the_file_not_one_that_it_has_forked(
    lock: NameLock, identity: ProcessIdentity
) -> None:
    lock.hold(identity)
    other = NameLock(KEYS, "stt")
    assert in_a_fork(lock.forget) is None
    assert not other.proves_the_end_of(identity)


# --- in a consumer ------------------------------------------------------------------------------

WORKER = """
    import sys
    from shared_sync import RedisStreamConsumer

    consumer = RedisStreamConsumer(
        sys.argv[1], "jobs", "workers", "stt", None, print, lease_seconds=600
    )
    consumer.connect()
    consumer.start()
    print("runs", flush=True)
    consumer.join()
"""


def test_a_worker_that_was_killed_in_its_container_is_replaced_at_once(
    make: Make, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A pid namespace of its own is what a container has of it."""
    caplog.set_level(logging.INFO)
    container = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.call([*container, "true"]) != 0:
        pytest.skip("this user may not make a pid namespace")
    command = [*container, sys.executable, "-c", textwrap.dedent(WORKER), redis_url]
    with start_program(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        process.kill()
    successor = make(lambda *_: None, consumer_id="stt", lease_seconds=600)
    eventually(lambda: not is_locked_by_a_process())
    threading.Thread(target=successor.start, daemon=True).start()
    eventually(lambda: successor.ready, within=60)
    assert "which had the name stt, has ended" in caplog.text


def is_locked_by_a_process() -> bool:
    """Whether the file of the dead worker is locked still: its namespace needs a moment to end."""
    import fcntl  # noqa: PLC0415

    (path,) = Path(tempfile.gettempdir()).iterdir()
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def test_a_consumer_locks_a_name_of_its_own_and_leaves_nothing_behind(
    make: Make, redis_url: str, client: redis.Redis, folder: Path
) -> None:
    with make(lambda *_: None, consumer_id=None):
        assert list(folder.iterdir()) == [], "nobody ever claims a unique name again"
    for _ in range(2):
        with make(lambda *_: None, consumer_id="stt"):
            assert len(list(folder.iterdir())) == 1
        assert list(folder.iterdir()) == []
