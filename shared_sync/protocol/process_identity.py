"""The identity of the process that has claimed a consumer's name, which is more than its pid."""

from __future__ import annotations

import json
import os
import secrets
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

PROC = Path("/proc")
ONE_BY_ONE = " one by one"
"""What stands in Redis behind the text of a process that has read one message at a time so far,
although it may read more. Releases that do not know the mark expect that it has read several."""

_STATE, _START_TIME = 0, 19
"""Their places in `/proc/<pid>/stat`, counted from behind the program's name (proc(5))."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One consumer object in one process; its text form is what stands in Redis."""

    token: str
    """Drawn at random, so that no two identities are the same."""

    host: str
    pid: int
    machine: str
    """The boot and the pid namespace in which `pid` means something; empty where unknown."""

    started: str
    """When the process started, in the kernel's ticks; a pid that is used again has another."""

    prefetch: int
    """Most messages of one read. With 1, each message that it leaves behind is of another read."""

    lease_ms: int = 0
    """How long its lease is, so that others know when it ends at the latest; 0 if not stated, as
    by releases that did not."""

    @classmethod
    def here(cls, *, prefetch: int = 1, lease_ms: int = 0, proc: Path = PROC) -> ProcessIdentity:
        """Return a new identity of this process."""
        pid = os.getpid()
        started = ""
        with suppress(OSError):
            _, started = _state_and_start(proc, pid)
        return cls(
            token=secrets.token_hex(8),
            host=socket.gethostname(),
            pid=pid,
            machine=_machine(proc),
            started=started,
            prefetch=prefetch,
            lease_ms=lease_ms,
        )

    @classmethod
    def parse(cls, text: str) -> ProcessIdentity | None:
        """Return the identity that a text begins with.

        None for a text that no version of this library writes.
        """
        try:
            facts, end = json.JSONDecoder().raw_decode(text)
            facts = {"lease_ms": 0, **facts}
            identity = cls(**{name: kind(facts[name]) for name, kind in _FIELDS.items()})
        except (ValueError, TypeError, KeyError):
            return None
        return replace(identity, prefetch=1) if text[end:] == ONE_BY_ONE else identity

    def text(self) -> str:
        """Return the text that stands in Redis."""
        return json.dumps(asdict(self))

    def has_ended(self, proc: Path = PROC) -> bool:
        """Return whether its process is known to have ended.

        A stopped process has not ended. For a process on another machine or in another container,
        and without `/proc`, the answer is no: only its lease says whether it lives.
        """
        if not self.machine or not self.started:
            return False
        if (self.host, self.machine) != (socket.gethostname(), _machine(proc)):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # it lives and belongs to another user
        try:
            state, started = _state_and_start(proc, self.pid)
        except OSError:
            return False
        return state in "ZX" or started != self.started

    def is_of_this_boot(self) -> bool:
        """Return whether its process ran under this kernel, and under this name of the host.

        It may have run in another container. False without `/proc`.
        """
        boot = _machine(PROC).partition(" ")[0]
        of_this_host = self.host == socket.gethostname()
        return bool(boot) and of_this_host and self.machine.partition(" ")[0] == boot


_FIELDS: dict[str, type] = {
    "token": str,
    "host": str,
    "pid": int,
    "machine": str,
    "started": str,
    "prefetch": int,
    "lease_ms": int,
}


def _machine(proc: Path) -> str:
    with suppress(OSError):
        boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink(proc / 'self/ns/pid')}"
    return ""


def _state_and_start(proc: Path, pid: int) -> tuple[str, str]:
    """Return a process's state letter and start time; raise OSError if they cannot be read."""
    stat = (proc / str(pid) / "stat").read_text()
    facts = stat[stat.rindex(")") + 2 :].split()
    return facts[_STATE], facts[_START_TIME]
