"""Connections to the server that a redis_url leads to; Sentinels or a cluster are asked for it.

    redis://  rediss://  unix://           the server that the URL names
    redis+sentinel://  rediss+sentinel://  the master; Sentinels are asked at each connect
    redis+cluster://  rediss+cluster://    the owner of a key's slot; nodes are asked likewise

All keys of a stream share a slot, so in a cluster one connection to its owner is enough.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.crc import key_slot
from redis.retry import Retry

from shared_sync.connection import driver_errors, url
from shared_sync.connection.connection import Connect
from shared_sync.connection.url import Node
from shared_sync.errors import (
    ConfigurationError,
    RedisAccessDenied,
    RedisUnavailable,
    SharedSyncError,
)

CONNECT_TIMEOUT_SECONDS: Final = 5.0

ASK_TIMEOUT_SECONDS: Final = 1.0
"""How long a Sentinel or a node may take to answer before the next one is asked."""

CHECK_SECONDS: Final = 1.0
"""How often a Sentinel is asked, while there is something to send, whether the master moved."""

RECHECK_SECONDS: Final = 10.0
"""How long after a Sentinel that did not answer the next one is asked."""

_TLS_FILES: Final = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")


def connector(redis_url: str, *, key: str | None, reply_timeout_seconds: float) -> Connect:
    """Return a function that makes connections to `redis_url`, not opened yet. Never blocks.

    In a cluster they lead to the node that owns the slot of `key`, or to any node for None.
    Connections wait for a reply up to `reply_timeout_seconds`, and as long to be opened, 5 s at
    most. They retry nothing by themselves: a command that the driver sent a second time would
    publish twice, or leave a batch pending. Raises `ConfigurationError` for a URL that cannot be
    used.
    """
    address = url.read(redis_url)
    timeout = min(CONNECT_TIMEOUT_SECONDS, reply_timeout_seconds)
    options = address.options | {
        "socket_timeout": reply_timeout_seconds,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "health_check_interval": 0,
        "decode_responses": False,
        "protocol": 2,
    }
    connection_class = options.pop("connection_class", Connection)
    if "path" not in options:
        options |= {"socket_connect_timeout": timeout, "socket_keepalive": True}
    if connection_class is SSLConnection:
        _check_tls(options)
    if address.master:
        ask = _make_ask(connection_class, _for_sentinels(options), timeout)
        options["search"] = _MasterSearch(address.nodes, ask, timeout, address.master)
    elif address.is_cluster:
        ask = _make_ask(connection_class, options, timeout)
        options["search"] = _OwnerSearch(address.nodes, ask, timeout, key)
    if address.nodes:
        connection_class = _DISCOVERED[connection_class]
    connect = partial(connection_class, **options)
    try:
        connect()
    except Exception as error:  # noqa: BLE001 - each class of the driver raises its own
        raise ConfigurationError(
            f"redis_url has an option that this kind of connection does not take: {error}"
        ) from None
    return connect


def _check_tls(options: dict[str, Any]) -> None:
    for name in _TLS_FILES:
        if name in options and not Path(options[name]).exists():
            raise ConfigurationError(f"{name} in redis_url: there is no {options[name]!r} here")
    # The default of the driver depends on its version.
    options.setdefault("ssl_check_hostname", options.get("ssl_cert_reqs") != "none")


def _for_sentinels(options: dict[str, Any]) -> dict[str, Any]:
    """Remove the options for Sentinels from `options`, and return those for connections to them."""
    own = options | {"db": 0, "client_name": None}
    for name in ("username", "password"):
        own.pop(f"sentinel_{name}", None)
        own[name] = options.pop(f"sentinel_{name}", None)
    return own


class _DiscoveredConnection(Connection):
    """A connection that asks for its server each time that it connects."""

    def __init__(self, *, search: _Search, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self._search = search
        self._changes = 0

    def connect(self) -> None:
        (self.host, self.port), self._changes = self._search.find()
        super().connect()  # type: ignore[no-untyped-call]

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        self._search.check(self._changes)
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]

    def can_read(self, timeout: float = 0) -> bool:
        self._search.check(self._changes)
        return bool(super().can_read(timeout))


class _DiscoveredTLSConnection(_DiscoveredConnection, SSLConnection):
    """A connection with TLS that asks for its server each time that it connects."""


_DISCOVERED: Final = {Connection: _DiscoveredConnection, SSLConnection: _DiscoveredTLSConnection}


# --- finding the server -----------------------------------------------------------------------

Ask = Callable[..., Any]
"""Sends one command to a node, over a connection of its own, and returns the reply."""


def _make_ask(connection_class: Any, options: dict[str, Any], limit_seconds: float) -> Ask:
    # A node that hangs must leave time to ask others.
    timeout = min(ASK_TIMEOUT_SECONDS, limit_seconds / 4)
    options = options | {"socket_timeout": timeout, "socket_connect_timeout": timeout}

    def ask(node: Node, *command: str) -> Any:
        connection = connection_class(host=node.host, port=node.port, **options)
        try:
            connection.connect()
            connection.send_command(*command)
            return connection.read_response()
        finally:
            connection.disconnect()

    return ask


class _NotKnown(RedisUnavailable):
    """The Sentinel does not know the master, or the node knows no owner of the slot."""


class _Search:
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
        for node in self._in_turn(self._nodes()):
            if refusals and time.monotonic() >= deadline:
                break
            try:
                return self._find_from(node)
            except Exception as error:  # noqa: BLE001 - translated, whatever it is
                refusal = error if isinstance(error, _NotKnown) else driver_errors.translate(error)
                refusals.append(f"{node}: {refusal}")
                kinds.add(type(refusal))
        kind = RedisAccessDenied if RedisAccessDenied in kinds else RedisUnavailable
        remedy = f"; {self._remedy}" if _NotKnown in kinds else ""
        raise kind(f"{self._sought} was not found ({'; '.join(refusals)}){remedy}")

    def check(self, changes: int) -> None:
        """Raise the driver's `ConnectionError` if the server has moved since `find()`."""

    def _nodes(self) -> Sequence[Node]:
        return self._listed

    def _in_turn(self, nodes: Sequence[Node]) -> Iterator[Node]:
        first = next(self._turns) % len(nodes)
        return itertools.chain(nodes[first:], nodes[:first])

    def _find_from(self, node: Node) -> tuple[Node, int]:
        raise NotImplementedError


class _OwnerSearch(_Search):
    """Finds the node that owns a key's slot. A node that lost the slot answers MOVED."""

    _remedy = "every slot of the cluster needs a node that owns it"

    def __init__(
        self, nodes: Sequence[Node], ask: Ask, limit_seconds: float, key: str | None
    ) -> None:
        super().__init__(nodes, ask, limit_seconds)
        self._slot = None if key is None else _slot(key)
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


class _MasterSearch(_Search):
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


# --- slots ------------------------------------------------------------------------------------


def check_one_slot(redis_url: str, stream_name: str, result_stream: str) -> None:
    """Raise `ConfigurationError` if a cluster cannot write both streams in one script."""
    if not url.read(redis_url).is_cluster or _slot(stream_name) == _slot(result_stream):
        return
    tag = re.search(r"{(.+?)}", stream_name)
    raise ConfigurationError(
        f"result_stream {result_stream!r} is in another slot of the cluster than stream_name "
        f"{stream_name!r}; give it the same hash tag, such as "
        f"'{{{tag.group(1) if tag else stream_name}}}:results'"
    )


def _slot(key: str) -> int:
    slot: int = key_slot(key.encode())
    return slot
