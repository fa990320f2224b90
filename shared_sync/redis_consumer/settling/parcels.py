"""Parcels: the commands that settle outcomes, none of which takes the server long."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeVar

from shared_sync.connection.scripts import Command
from shared_sync.errors import SharedSyncError
from shared_sync.protocol.messages import Bury, Finish, Outcome
from shared_sync.redis_consumer.settling.breaks import SMALLEST_LIMIT

MOST_IDS: Final = 500
"""Messages without a result that one call of a script ends, so that no call takes long."""

MOST_OUTCOMES: Final = 100
"""The same for messages that have a result or have failed, or go back."""

MOST_BYTES: Final = SMALLEST_LIMIT
"""Results that one call of a script publishes. One that is larger is published alone."""

T = TypeVar("T")


class Parcel(NamedTuple):
    """A command that settles messages, and what to do with its reply."""

    command: Command
    ids: Sequence[str]
    confirm: Callable[[Any], SharedSyncError | None]
    """Notes what became of the messages; returns why one of them was refused."""
    result: Finish | None = None
    """The result, if the command settles nothing else."""
    drop: Callable[[], None] | None = None
    """Forgets what the command is about if Redis refuses it, as it may: it settles nothing."""
    outcomes: Sequence[Outcome] = ()
    """The outcomes, if they are more than ids."""
    label: str = ""
    """What becomes of the messages, in a word, if they are only ids."""
    deny: Callable[[SharedSyncError], None] | None = None
    """Called if the user may not write to a stream that the command writes to; None if those are
    the consumer's own."""


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the items in parts of at most this size."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def chunks_of_results(finishes: Sequence[Finish]) -> Iterator[Sequence[Finish]]:
    """Yield results in parts that are small enough for one command."""
    chunk: list[Finish] = []
    size = 0
    for finish in finishes:
        size += finish.size
        if chunk and (size > MOST_BYTES or len(chunk) == MOST_OUTCOMES):
            yield chunk
            chunk, size = [], finish.size
        chunk.append(finish)
    if chunk:
        yield chunk


def chunks_of_outputs(
    finishes: Sequence[Finish], alone: Collection[str]
) -> Iterator[Sequence[Finish]]:
    """Yield messages that write to several streams in parts that are small enough for one command.

    Those whose ids are in `alone` come alone.
    """
    chunk: list[Finish] = []
    size = entries = 0
    for finish in finishes:
        more = 1 + len(finish.outputs)
        is_full = size + finish.size > MOST_BYTES or entries + more > MOST_OUTCOMES
        if chunk and (is_full or finish.id in alone or chunk[-1].id in alone):
            yield chunk
            chunk, size, entries = [], 0, 0
        chunk.append(finish)
        size += finish.size
        entries += more
    if chunk:
        yield chunk


def without(ids: list[str], settled: Sequence[str]) -> list[str]:
    """Return those of the ids that are not settled."""
    if len(ids) == len(settled):
        return []
    gone = set(settled)
    return [one for one in ids if one not in gone]


def without_reply(outcome: Outcome) -> Outcome | None:
    """Return the outcome without what it writes to a stream that others have named.

    None if it would lose what others than a caller expect: it is to become a dead letter.
    """
    if isinstance(outcome, Bury) and outcome.answer.address is not None:
        answer = outcome.answer._replace(items=(), address=None)
        return replace(outcome, answer=answer)
    if isinstance(outcome, Finish) and outcome.address and not outcome.address.may_create:
        return Finish(
            outcome.id,
            (),
            outcome.channel,
            outcome.payload,
            entry=outcome.entry,
            status=outcome.status,
            outputs=outcome.outputs,
        )
    return None
