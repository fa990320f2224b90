"""Who holds a name, and when its process is known to have ended: real ones, and a fake /proc."""

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

from shared_sync.protocol.process_identity import Holder

BOOT = "5d3f0000-aaaa-bbbb-cccc-000000000000"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until it is killed."""
    process = start_program(
        [sys.executable, "-c", "print(flush=True); import time; time.sleep(600)"],
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


def holder_of(process: subprocess.Popen[bytes]) -> Holder:
    stat = Path(f"/proc/{process.pid}/stat").read_text()
    return replace(Holder.here(), pid=process.pid, started=stat.rpartition(")")[2].split()[19])


def test_this_process_is_not_gone_and_its_holders_are_not_the_same() -> None:
    one, two = Holder.here(), Holder.here()
    assert not one.is_gone()
    assert one != two
    assert (one.pid, one.host) == (os.getpid(), os.uname().nodename)


def test_a_holder_is_read_back_from_its_text() -> None:
    holder = Holder.here(prefetch=7)
    assert Holder.parse(holder.text()) == holder
    assert Holder.parse(holder.text() + " script: 0123, on line 4") == holder


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"token": "t"}', '"text"', "\ufffd"])
def test_what_is_no_holder_is_none(text: str) -> None:
    assert Holder.parse(text) is None


def test_a_killed_process_is_gone_also_before_it_is_reaped(
    sleeper: subprocess.Popen[bytes],
) -> None:
    holder = holder_of(sleeper)
    assert not holder.is_gone()
    sleeper.send_signal(signal.SIGSTOP)
    assert not holder.is_gone(), "a stopped process may go on"
    sleeper.kill()
    eventually(holder.is_gone)
    sleeper.wait()
    assert holder.is_gone()


def test_a_pid_that_was_used_again_is_another_process() -> None:
    assert replace(Holder.here(), started="1").is_gone()


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"machine": "another boot pid:[1]"},
        {"host": "another-host"},
        {"machine": ""},
        {"started": ""},
    ],
)
def test_a_process_that_cannot_be_judged_from_here_is_not_gone(elsewhere: dict[str, str]) -> None:
    assert not replace(Holder.here(), **elsewhere, pid=2**22 - 1).is_gone()


def test_a_programs_name_may_hold_spaces_and_brackets(proc: Path) -> None:
    holder = Holder.here(proc=proc)
    assert holder.started == "777"
    assert holder.machine == f"{BOOT} pid:[4026531836]"
    assert not holder.is_gone(proc)
    write_stat(proc, "S", 778)
    assert holder.is_gone(proc)
    write_stat(proc, "Z", 777)
    assert holder.is_gone(proc)


def test_without_proc_nothing_is_known(tmp_path: Path) -> None:
    holder = Holder.here(proc=tmp_path)
    assert (holder.machine, holder.started) == ("", "")
    assert not holder.is_gone(tmp_path)


def test_a_process_that_may_not_be_looked_at_is_not_gone(proc: Path) -> None:
    """As with hidepid, where the folders of other users' processes are not there."""
    holder = Holder.here(proc=proc)
    (proc / str(os.getpid()) / "stat").unlink()
    assert not holder.is_gone(proc)
