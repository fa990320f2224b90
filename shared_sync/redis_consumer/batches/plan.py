"""Which of the messages that wait for a reader run together."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from shared_sync.batching import Batching
from shared_sync.common import arguments
from shared_sync.errors import InvalidMessage
from shared_sync.message import Fields, Message
from shared_sync.protocol.job_options import without_options
from shared_sync.protocol.messages import Entry
from shared_sync.redis_consumer.failures import DEADLINE

NEWEST_SHARE: Final = 0.1
"""How much the newest cost counts in the mean."""


class Plan(NamedTuple):
    """How many messages run together next, from the left."""

    messages: int
    room: int
    """About how many more can join them; 0 if none can."""
    error: BaseException | None = None
    """What `size` has raised for the first of them, which then is the only one."""


class Planner:
    """Plans the batches of one reader. For the reader's thread."""

    def __init__(self, batching: Batching, decode: Callable[[Entry], Fields]) -> None:
        # Fixed after construction.
        self._size = batching.size
        self._max_total = math.inf if batching.max_total is None else batching.max_total
        self._decode = decode
        # Owned by the reader's thread.
        self._costs: dict[str, float | BaseException] = {}
        """What the waiting messages cost, by id, so that `size` is asked once for each."""
        self._mean_cost: float | None = None
        """What a message costs, the newer ones counting more."""

    def expected(self, most: int, budget: float | None = None) -> int:
        """Return how many new messages, `most` at most, fit into a budget or a whole batch."""
        if self._size is None:
            return most
        if self._mean_cost is None:
            return 1
        budget = self._max_total if budget is None else budget
        if budget >= most * self._mean_cost:
            return most
        return max(1, math.ceil(budget / self._mean_cost))

    def plan(self, waiting: Sequence[Entry], most: int) -> Plan:
        """Return which of the messages that wait run next, `most` at most; there must be one."""
        if runs_alone(waiting[0]):
            return Plan(1, room=0)
        first = self._cost(waiting[0])
        if isinstance(first, BaseException):
            return Plan(1, room=0, error=first)
        total = first
        count = 1
        for entry in waiting[1:most]:
            cost = math.inf if runs_alone(entry) else self._cost(entry)
            if (
                isinstance(cost, BaseException)
                or total + cost > self._max_total
                or cost == math.inf
            ):
                return Plan(count, room=0)
            total += cost
            count += 1
        if count >= most or total >= self._max_total:
            return Plan(count, room=0)
        return Plan(count, room=self.expected(most - count, self._max_total - total))

    def forget_all_but(self, waiting: Iterable[Entry]) -> None:
        """Forget what messages cost, except those that still wait."""
        if self._costs:
            costs = self._costs
            self._costs = {one.id: costs[one.id] for one in waiting if one.id in costs}

    def _cost(self, entry: Entry) -> float | BaseException:
        if self._size is None:
            return 0.0
        cost = self._costs.get(entry.id)
        if cost is None:
            cost = self._costs[entry.id] = self._ask(self._size, entry)
        return cost

    def _ask(self, size: Callable[[Message], float], entry: Entry) -> float | BaseException:
        try:
            fields = without_options(self._decode(entry))
        except InvalidMessage:
            return 0.0  # it is refused before its batch runs
        try:
            cost = _checked(size(Message(entry.id, fields, entry.deliveries)))
        except BaseException as error:  # noqa: BLE001 - even SystemExit must not end a reader
            return error
        mean = self._mean_cost
        self._mean_cost = cost if mean is None else mean + NEWEST_SHARE * (cost - mean)
        return cost


def _checked(cost: object) -> float:
    """Return a cost; raise `ConfigurationError` for what cannot be one."""
    arguments.number("what size of Batching returns", cost, 0)
    return float(cost)  # type: ignore[arg-type]


def runs_alone(entry: Entry) -> bool:
    """Return whether a message must not take others down with it, or hold them up.

    So it is if its process has died with it or broken at it, and if its last attempt ran past the
    deadline: perhaps together with others, so that nobody knows whose fault that was.
    """
    if entry.deliveries == 1 and not entry.history:
        return False
    return entry.crashes > 0 or entry.faults > 0 or _ended_at_deadline(entry.history)


def _ended_at_deadline(history: bytes) -> bool:
    last = history.rstrip(b"\n").rpartition(b"\n")[2]
    try:
        failure = json.loads(last)
        return isinstance(failure, dict) and failure.get("error_type") == DEADLINE
    except ValueError:
        return False
