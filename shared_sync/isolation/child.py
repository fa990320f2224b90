"""The main program of a child process: it loads the processor, and runs what its parent sends.

The processor runs in the main thread, so that a signal can end it there. Imported by nothing else;
what it imports is paid for by the start of every child.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import runpy
import signal
import socket
import sys
import threading
import types
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from shared_sync.circuit_breaker import adopt_states, take_reports
from shared_sync.common import log_attributes
from shared_sync.common.log_once import LogOnce
from shared_sync.isolation import frames, importing
from shared_sync.isolation.child_jobs import Jobs
from shared_sync.isolation.child_logs import SendingHandler, set_levels
from shared_sync.isolation.child_metrics import ChildRecorder
from shared_sync.isolation.error_description import describe
from shared_sync.isolation.importable import CHILD_MAIN
from shared_sync.isolation.side_channel import SideChannel
from shared_sync.isolation.wire import Channel, ChannelClosed
from shared_sync.processors import LoadedProcessor, ProcessorContext, ProcessorSource
from shared_sync.protocol.attempt_attributes import AttemptAttributes
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.results import Results
from shared_sync.tracing.switch import child_spans

METRICS_SECONDS: Final = 1.0
"""How often what a long job has recorded is sent, at least."""

_PR_SET_PDEATHSIG: Final = 1


class ToldToEnd(SystemExit):
    """Raised in the middle of a job when the parent ends this process: its deadline has passed."""


def main(jobs_fd: int, side_fd: int, stacks_fd: int) -> None:
    """Serve the parent at the other end of these sockets until it says or has reached its end.

    `stacks_fd` is a file for what a fatal signal finds on the stack.
    """
    channel = Channel(socket.socket(fileno=jobs_fd))
    with suppress(ChannelClosed):
        setup = channel.receive().header
        _die_with(setup["parent"])
        child = _Child(channel, SideChannel(socket.socket(fileno=side_fd)), setup)
        child.handle_signals(stacks_fd)
        child.serve()


def _die_with(parent: int) -> None:
    """Let the system kill this process when the thread that created it ends."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before
        _kill_this_process()


def _kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _Child:
    """One child process. Methods belong to its main thread, unless they say otherwise."""

    def __init__(self, channel: Channel, side: SideChannel, setup: Mapping[str, Any]) -> None:
        # Fixed after construction.
        self._channel = channel
        self._side = side
        self._setup = setup
        self._recorder = ChildRecorder()
        keys = Keys.of(setup["stream"], setup["group"])
        tracing = self._tracing = child_spans(setup["tracing"])
        self._jobs = Jobs(
            Results(
                stream=setup["stream"],
                result_stream=setup["result_stream"],
                result_channel=setup["result_channel"],
                carry_fields=setup["carry_fields"],
                binary_fields=setup["binary_fields"],
                log_renamed=LogOnce(logging.getLogger(setup["logger"]), logging.WARNING),
            ),
            binary_fields=frozenset(setup["binary_fields"]),
            keys=keys,
            is_cluster=setup["is_cluster"],
            max_age_seconds=setup["max_age_seconds"],
            send_progress=side.progress,
            tracing=tracing,
        )
        self._attributes = AttemptAttributes(
            self._jobs.running,
            keys,
            setup["consumer"],
            None if tracing is None else tracing.span_ids,
        )
        self._handler = SendingHandler(side.log)
        # Written in the main thread.
        self._is_ending = False

    def handle_signals(self, stacks_fd: int) -> None:
        """Let nothing but the parent end a job, and note where this process is when it dies.

        A signal may reach the parent and all of its children, as from a service manager; the parent
        drains then, and what runs here is to finish. The handlers are Python's, not SIG_IGN, so
        that programs that the processor starts have the default.
        """
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        faulthandler.enable(stacks_fd)
        faulthandler.register(signal.SIGTERM, stacks_fd, all_threads=False, chain=True)
        for descriptor in (self._channel.socket.fileno(), self._side.fileno(), stacks_fd):
            os.set_inheritable(descriptor, False)
        os.register_at_fork(after_in_child=self._leave_to_parent)

    def serve(self) -> None:
        """Load the processor, say so, and run jobs until the parent says or has reached its end."""
        log_attributes.set_source(self._attributes, everywhere=True)
        logging.root.addHandler(self._handler)
        set_levels(self._setup["levels"])
        threading.Thread(target=self._watch_parent, name="parent", daemon=True).start()
        try:
            processor = self._load()
        except BaseException as error:  # noqa: BLE001 - the parent raises it
            if not self._is_ending:
                self._channel.send(frames.FAILED, {"error": describe(error), **self._recorded()})
            raise SystemExit(1) from None
        takes_batches = processor.process_batch is not None
        self._channel.send(frames.READY, {"takes_batches": takes_batches, **self._recorded()})
        try:
            self._run_jobs(processor)
        finally:
            self._close(processor)
            self._side.metrics(self._recorder.take)

    def _load(self) -> LoadedProcessor:
        setup = self._setup
        sys.argv[:] = setup["argv"]
        if setup["main_file"] is not None:
            with importing.importing_program():
                _run_main_file(setup["main_file"])
        context = ProcessorContext(
            reader=setup["reader"],
            device=setup["device"],
            metrics=self._recorder,
            logger=logging.getLogger(setup["logger"]),
        )
        with importing.importing_program():
            processor = ProcessorSource(setup["argument"], setup["path"]).load(context)
        if self._tracing is not None:
            self._tracing.set_up()
        return processor

    def _close(self, processor: LoadedProcessor) -> None:
        try:
            processor.close()
        except BaseException:
            logging.getLogger(self._setup["logger"]).error(
                "the processor of reader %d could not be closed",
                self._setup["reader"],
                exc_info=True,
            )

    def _run_jobs(self, processor: LoadedProcessor) -> None:
        while True:
            frame = self._channel.receive()
            if frame.kind == frames.CLOSE:
                return
            set_levels(frame.header.get("levels", {}))
            breakers = frame.header.get("breakers", {})
            adopt_states(breakers)
            reply = self._jobs.run(processor, frame)
            del frame  # it may be large, and this process idle for long
            if self._is_ending:
                return
            header = {**reply.header, **self._recorded()}
            if breakers:
                header["breakers"] = take_reports(breakers)
            self._channel.send(reply.kind, header, reply.parts)
            del reply

    def _recorded(self) -> dict[str, Any]:
        taken = self._recorder.take()
        return {} if taken is None else {"metrics": taken}

    # --- in other threads, and in signal handlers ---

    def _watch_parent(self) -> None:
        """Receive cancellations, send metrics, and end this process when the parent has ended."""
        while not self._side.told_to_end:
            self._jobs.cancel(self._side.cancelled(METRICS_SECONDS))
            self._side.metrics(self._recorder.take)
        if self._side.parent_has_ended:
            _kill_this_process()

    def _on_sigterm(self, *_: object) -> None:
        if self._side.told_to_end:
            self._is_ending = True
            raise ToldToEnd

    def _leave_to_parent(self) -> None:
        """In a process that the processor forks: have nothing to do with this one's parent."""
        self._channel.close()
        self._side.close()
        logging.root.removeHandler(self._handler)
        faulthandler.disable()
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)


def _run_main_file(path: str) -> None:
    """Run the program's main file without what is guarded, so that what it defines is there."""
    module = types.ModuleType(CHILD_MAIN)
    module.__dict__.update(runpy.run_path(path, run_name=CHILD_MAIN))
    sys.modules["__main__"] = sys.modules[CHILD_MAIN] = module
