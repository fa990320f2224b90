"""Asking Sentinels for the master, and nodes of a cluster for the owner of a slot."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import redis

from shared_sync.connection import driver_errors, tls_mismatch
from shared_sync.connection.key_slots import slot_of
from shared_sync.connection.url import Node
from shared_sync.errors import RedisAccessDenied, RedisUnavailable, SharedSyncError

ASK_TIMEOUT_SECONDS: Final = 1.0
"""How long a Sentinel or a node may take to answer before the next one is asked."""

CHECK_SECONDS: Final = 1.0
"""How often a Sentinel is asked, while there is something to send, whether the master moved."""

RECHECK_SECONDS: Final = 10.0
"""How long after a Sentinel that did not answer the next one is asked."""

Ask = Callable[..., Any]
"""Sends one command to a node, over a connection of its own, and returns the reply."""


def make_ask(connection_class: Any, options: dict[str, Any], limit_seconds: float) -> Ask:
    # A node that hangs must leave time to ask others.
    timeout = min(ASK_TIMEOUT_SECONDS, limit_seconds / 4)
    options = options | {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "redis_connect_func": None,
    }

    def ask(node: Node, *command: str) -> Any:
        connection = connection_class(host=node.host, port=node.port, **options)
        try:
            connection.connect()
            connection.send_command(*command)
            return connection.read_response()
        except redis.RedisError as error:
            if hint := tls_mismatch.hint(connection, error):
                mismatch = RedisUnavailable(f"{error}; {hint}")
                mismatch.cause = "TLS"
                raise mismatch from None
            raise
        finally:
            connection.disconnect()

    return ask


class _NotKnown(RedisUnavailable):
    """The Sentinel does not know the master, or the node knows no owner of the slot."""

    cause = "not known"


class Search:
    """Asks node after node where the server is. Shared by connections; safe from any thread."""

    _sought: str
    """What is looked for, for errors."""
    _remedy: str
    """What to do if a node answers and does not know the server, for errors."""

    def __init__(self, nodes: Sequence[Node], ask: Ask, limit_seconds: float) -> None:
        # Fixed after construction.
        self._listed = tuple(nodes)
        self._ask = ask
        self._limit_seconds = limit_seconds
        # Each search begins with another node: a node that is cut off from the others has old
        # information, and one that hangs costs time. Threads may share the counter without a lock.
        self._turns = itertools.count()

    def find(self) -> tuple[Node, int]:
        """Return the server, and the number that `check()` takes.

        Blocks up to the time limit and the wait for one more answer. Raises `RedisUnavailable` or
        `RedisAccessDenied`, with the answer of each node.
        """
        deadline = time.monotonic() + self._limit_seconds
        refusals: list[str] = []
        kinds: set[type[SharedSyncError]] = set()
        causes: set[str] = set()
        for node in self._in_turn(self._nodes()):
            if refusals and time.monotonic() >= deadline:
                break
            try:
                return self._find_from(node)
            except Exception as error:  # noqa: BLE001 - translated, whatever it is
                refusal = driver_errors.translate(error)
                refusals.append(f"{node}: {refusal}")
                kinds.add(type(refusal))
                causes.add(getattr(refusal, "cause", "refused"))
        kind = RedisAccessDenied if RedisAccessDenied in kinds else RedisUnavailable
        remedy = f"; {self._remedy}" if _NotKnown in kinds else ""
        not_found = kind(f"{self._sought} was not found ({'; '.join(refusals)}){remedy}")
        not_found.cause = f"not found: {', '.join(sorted(causes))}"
        raise not_found

    def check(self, changes: int) -> None:
        """Raise the driver's `ConnectionError` if the server has moved since `find()`."""

    def _nodes(self) -> Sequence[Node]:
        return self._listed

    def _in_turn(self, nodes: Sequence[Node]) -> Iterator[Node]:
        first = next(self._turns) % len(nodes)
        return itertools.chain(nodes[first:], nodes[:first])

    def _find_from(self, node: Node) -> tuple[Node, int]:
        raise NotImplementedError


class OwnerSearch(Search):
    """Finds the node that owns a key's slot. A node that lost the slot answers MOVED."""

    _remedy = "every slot of the cluster needs a node that owns it"

    def __init__(
        self, nodes: Sequence[Node], ask: Ask, limit_seconds: float, key: str | None
    ) -> None:
        super().__init__(nodes, ask, limit_seconds)
        self._slot = None if key is None else slot_of(key)
        self._sought = "a node" if key is None else f"the owner of {key!r} (slot {self._slot})"
        # Replaced as a whole by any thread: the nodes that the cluster named last.
        self._learned: tuple[Node, ...] = ()

    def _nodes(self) -> Sequence[Node]:
        return tuple(dict.fromkeys(self._listed + self._learned))

    def _find_from(self, node: Node) -> tuple[Node, int]:
        owner = node if self._slot is None else None
        learned: list[Node] = []
        for first, last, *servers in self._ask(node, "CLUSTER", "SLOTS"):
            # An empty host means the node that was asked.
            known = [Node((host or b"").decode() or node.host, port) for host, port, *_ in servers]
            learned += known
            if self._slot is not None and first <= self._slot <= last:
                owner = known[0]
        self._learned = tuple(learned)
        if owner is None:
            raise _NotKnown("knows no owner")
        return owner, 0


class MasterSearch(Search):
    """Finds the master that Sentinels name, and notices when they name another one.

    A master that is replaced by SENTINEL FAILOVER is informed some ten seconds later, and what it
    accepts until then is lost. So a Sentinel is asked once a second while commands are sent.
    """

    _remedy = "redis_url must have the name that 'sentinel monitor' gives to the master"

    def __init__(self, nodes: Sequence[Node], ask: Ask, limit_seconds: float, master: str) -> None:
        super().__init__(nodes, ask, limit_seconds)
        self._master = master
        self._sought = f"the master {master!r}"
        # Held by the one thread that asks a Sentinel in `check()`; the others go on meanwhile.
        self._asking = threading.Lock()
        # Guarded by the lock; the numbers are read without it, where an old value does no harm.
        self._lock = threading.Lock()
        self._answers: dict[Node, Node] = {}
        self._changes = 0
        self._next_check = 0.0

    def check(self, changes: int) -> None:
        if time.monotonic() >= self._next_check and self._asking.acquire(blocking=False):
            try:
                self._ask_a_sentinel()
            finally:
                self._asking.release()
        if changes != self._changes:
            raise redis.ConnectionError(f"{self._sought} is another server now")

    def _ask_a_sentinel(self) -> None:
        """Ask one that has answered before, if there is one."""
        with self._lock:
            known = tuple(self._answers)
        sentinel = next(self._in_turn(known or self._listed))
        try:
            self._find_from(sentinel)
        except Exception:  # noqa: BLE001 - Sentinels may be down while the master is not
            with self._lock:
                self._answers.pop(sentinel, None)
                self._next_check = time.monotonic() + RECHECK_SECONDS

    def _find_from(self, node: Node) -> tuple[Node, int]:
        changes = self._changes
        reply = self._ask(node, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master)
        if reply is None:
            raise _NotKnown("does not know it")
        master = Node(reply[0].decode(), int(reply[1]))
        with self._lock:
            # The master has moved only if one Sentinel has changed its answer. Two Sentinels may
            # differ although it has not: one has older information, or writes the address of the
            # same server in another way.
            if self._answers.get(node, master) != master:
                self._answers.clear()
                self._changes += 1
                changes += 1
            self._answers[node] = master
            self._next_check = time.monotonic() + CHECK_SECONDS
        return master, changes
