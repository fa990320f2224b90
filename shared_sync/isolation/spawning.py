"""Creating child processes: always in the same thread, with the environment that they are to see.

The system kills a child when the thread that created it ends (`child.py` asks for that). So one
thread creates all of them, and lasts as long as the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import TypeAlias

from shared_sync.common.fork import PerProcess
from shared_sync.common.loop import Loop
from shared_sync.errors import ConfigurationError

_BOOT = """\
import sys
sys.path[:] = filter(None, sys.path)
import json
with open({0}, "rb", buffering=0, closefd=False) as jobs:
    sys.path[:] = json.loads(jobs.readline())
from shared_sync.isolation.child import main
main({0}, {1}, {2})
"""
"""The program of a child. All else comes over the socket: others can read arguments.

It imports nothing from the current folder, as this process does not, either.
"""

Process: TypeAlias = "subprocess.Popen[bytes]"


class _SpawnThread:
    """Any thread may call any method."""

    def __init__(self) -> None:
        self._requests: SimpleQueue[tuple[partial[Process], Future[Process]]] = SimpleQueue()
        self._loop = Loop("spawn", step=self._step, stop=threading.Event())

    def spawn(self, create: partial[Process]) -> Process:
        """Call a function in the thread, and return or raise what it does."""
        self._loop.start()
        future: Future[Process] = Future()
        self._requests.put((create, future))
        return future.result()

    def _step(self) -> None:
        create, future = self._requests.get()
        try:
            future.set_result(create())
        except BaseException as error:  # noqa: BLE001 - it is raised in the other thread
            future.set_exception(error)


_spawn_thread = PerProcess(_SpawnThread)


def spawn(descriptors: Sequence[int], environment: Mapping[str, str]) -> Process:
    """Start a child that has these descriptors: two sockets and a file.

    `environment` is what changes in a copy of this process's; that itself stays as it is. The child
    is in a session and process group of its own, so that a signal for this process's group, as by
    Ctrl-C, does not reach it. Raises OSError if there are no more processes to be had.
    """
    if not sys.executable:
        raise ConfigurationError(
            'isolation="process" starts Python again, and sys.executable does not say where it is; '
            "set sys.executable"
        )
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    create: partial[Process] = partial(
        subprocess.Popen[bytes],
        [sys.executable, *flags, "-c", _BOOT.format(*descriptors)],
        pass_fds=descriptors,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    return _spawn_thread.get().spawn(create)


def search_path() -> bytes:
    """Return what the child has to read first: where it finds modules."""
    return json.dumps([path for path in sys.path if isinstance(path, str)]).encode() + b"\n"
