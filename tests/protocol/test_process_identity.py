"""Identities of processes, and when one is known to have ended: real ones, and a fake /proc."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import eventually, start_program

from shared_sync.protocol.process_identity import ProcessIdentity

BOOT = "5d3f0000-aaaa-bbbb-cccc-000000000000"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until it is killed."""
    process = start_program(
        [sys.executable, "-c", "print(flush=True); import threading; threading.Event().wait(600)"],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A folder that looks like /proc and has this process in it."""
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text(f"{BOOT}\n")
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").symlink_to("pid:[4026531836]")
    write_stat(tmp_path, "S", 777)
    return tmp_path


def write_stat(proc: Path, state: str, started: int) -> None:
    folder = proc / str(os.getpid())
    folder.mkdir(exist_ok=True)
    before = " ".join(["0"] * 18)
    (folder / "stat").write_text(f"{os.getpid()} (a (b) c) {state} {before} {started} 0 0\n")


def identity_of(process: subprocess.Popen[bytes]) -> ProcessIdentity:
    stat = Path(f"/proc/{process.pid}/stat").read_text()
    return replace(
        ProcessIdentity.here(), pid=process.pid, started=stat.rpartition(")")[2].split()[19]
    )


def test_this_process_has_not_ended_and_no_two_of_its_identities_are_the_same() -> None:
    one, two = ProcessIdentity.here(), ProcessIdentity.here()
    assert not one.has_ended()
    assert one != two
    assert (one.pid, one.host) == (os.getpid(), os.uname().nodename)


def test_an_identity_is_read_back_from_its_text() -> None:
    identity = ProcessIdentity.here(prefetch=7)
    assert ProcessIdentity.parse(identity.text()) == identity
    assert ProcessIdentity.parse(identity.text() + " script: 0123, on line 4") == identity


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"token": "t"}', '"text"', "\ufffd"])
def test_a_text_that_no_version_writes_has_no_identity(text: str) -> None:
    assert ProcessIdentity.parse(text) is None


def test_a_killed_process_has_ended_also_before_it_is_reaped(
    sleeper: subprocess.Popen[bytes],
) -> None:
    identity = identity_of(sleeper)
    assert not identity.has_ended()
    sleeper.send_signal(signal.SIGSTOP)
    assert not identity.has_ended(), "a stopped process may go on"
    sleeper.kill()
    eventually(identity.has_ended)
    sleeper.wait()
    assert identity.has_ended()


def test_a_pid_that_was_used_again_is_another_process() -> None:
    assert replace(ProcessIdentity.here(), started="1").has_ended()


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"machine": "another boot pid:[1]"},
        {"host": "another-host"},
        {"machine": ""},
        {"started": ""},
    ],
)
def test_a_process_that_cannot_be_checked_from_here_has_not_ended(
    elsewhere: dict[str, str],
) -> None:
    assert not replace(ProcessIdentity.here(), **elsewhere, pid=2**22 - 1).has_ended()


def test_the_name_of_a_program_may_contain_spaces_and_brackets(proc: Path) -> None:
    identity = ProcessIdentity.here(proc=proc)
    assert identity.started == "777"
    assert identity.machine == f"{BOOT} pid:[4026531836]"
    assert not identity.has_ended(proc)
    write_stat(proc, "S", 778)
    assert identity.has_ended(proc)
    write_stat(proc, "Z", 777)
    assert identity.has_ended(proc)


def test_without_proc_nothing_is_known(tmp_path: Path) -> None:
    identity = ProcessIdentity.here(proc=tmp_path)
    assert (identity.machine, identity.started) == ("", "")
    assert not identity.has_ended(tmp_path)


def test_a_process_whose_folder_is_hidden_has_not_ended(proc: Path) -> None:
    """As with hidepid, where the folders of other users' processes are not there."""
    identity = ProcessIdentity.here(proc=proc)
    (proc / str(os.getpid()) / "stat").unlink()
    assert not identity.has_ended(proc)
