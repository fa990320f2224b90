"""Running the messages of a job in a child, and encoding what becomes of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shared_sync.common.out_of_memory import release_memory
from shared_sync.isolation import frames
from shared_sync.isolation.error_description import describe
from shared_sync.isolation.wire import Frame
from shared_sync.message import Fields, Message, decode_fields, running_in_this_thread
from shared_sync.processors import LoadedProcessor
from shared_sync.protocol.job_options import OPTIONS, without_options
from shared_sync.protocol.messages import Entry, Finish
from shared_sync.protocol.results import Results, refuse_unstarted
from shared_sync.values import has_run


class Jobs:
    """Runs jobs one after the other, in the main thread of a child."""

    def __init__(self, results: Results, *, binary_fields: frozenset[str]) -> None:
        # Fixed after construction.
        self._results = results
        self._reads_fields = results.reads_fields
        self._binary_fields = binary_fields
        self._running = running_in_this_thread()
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._cancelled: set[str] = set()
        # Written by the main thread; any thread may read.
        self.running_message: str | None = None
        """The id of the message that runs; None for none, and for several together."""

    def cancel(self, ids: Sequence[str]) -> None:
        """Note that messages are cancelled, perhaps before their job begins. For any thread."""
        with self._lock:
            self._cancelled.update(ids)

    def run(self, processor: LoadedProcessor, job: Frame) -> Frame:
        """Run the messages of a job; return the frame that answers it.

        Raises nothing that the processor raises.
        """
        messages = self._messages(job)
        # The processor may change its own fields.
        fields = [one.fields for one in messages]
        for message in messages:
            if self._reads_fields or OPTIONS in message.fields:
                message.fields = without_options(message.fields)
        try:
            if processor.process_batch is not None:
                self._running.is_batch = True
                return self._answer(messages, fields, processor.process_batch(messages))
            return self._run_one(processor, messages[0], fields[0])
        except BaseException as error:  # noqa: BLE001 - even SystemExit is the processor's
            release_memory(error)
            return Frame(frames.FAILED, {"error": describe(error)}, ())
        finally:
            with self._lock:
                self._cancelled.clear()
            self.running_message = None
            self._running.parts = None
            self._running.is_batch = False

    def _run_one(self, processor: LoadedProcessor, message: Message, fields: Fields) -> Frame:
        self.running_message = message.id
        self._running.parts = (message.id, message.fields, message.attempt, None)
        result = processor.process(message.id, message.fields)  # type: ignore[misc]
        finish = self._finish(message.id, fields, result)
        return Frame(frames.DONE, {"outcomes": [_described(finish)]}, _parts(finish))

    def _answer(
        self, messages: Sequence[Message], fields: Sequence[Fields], results: Sequence[object]
    ) -> Frame:
        outcomes: list[object] = []
        parts: list[bytes] = []
        for message, own, result in zip(messages, fields, results, strict=True):
            error = result if isinstance(result, BaseException) else None
            if error is None:
                try:
                    finish = self._finish(message.id, own, result)
                    outcomes.append(_described(finish))
                    parts += _parts(finish)
                except Exception as raised:  # noqa: BLE001 - the fate of this message alone
                    error = raised
            if error is not None:
                outcomes.append({"error": describe(error)})
        return Frame(frames.DONE, {"outcomes": outcomes}, parts)

    def _finish(self, message_id: str, fields: Fields, result: object) -> Finish | None:
        """Return what is published for a result, as the parent does without a child."""
        if result is None:
            return None
        if self._results.wanted or OPTIONS in fields:
            return self._results.success(Entry(message_id, []), fields, result)
        if not has_run(result):
            refuse_unstarted(result)
        return None

    def _messages(self, job: Frame) -> list[Message]:
        messages: list[Message] = []
        first = 0
        for message_id, deliveries, count in job.header["messages"]:
            items = job.parts[first : first + count]
            fields = decode_fields(items, self._binary_fields)
            messages.append(Message(message_id, fields, deliveries))
            first += count
        return messages


def _described(finish: Finish | None) -> dict[str, Any] | None:
    if finish is None:
        return None
    return {
        "items": len(finish.items),
        "channel": finish.channel,
        "adds_header": finish.adds_header,
    }


def _parts(finish: Finish | None) -> Sequence[bytes]:
    """Return the items of a result, and what its channel gets."""
    return () if finish is None else (*finish.items, finish.payload)


def finish_of(described: Mapping[str, Any], parts: Iterator[bytes], entry: Entry) -> Finish:
    """In the parent: return the result of a message as the child has described it."""
    items = [next(parts) for _ in range(described["items"])]
    return Finish(
        entry.id,
        items,
        described["channel"],
        next(parts),
        described["adds_header"],
        entry,
    )
