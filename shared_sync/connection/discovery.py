"""Connections to the server that a redis_url leads to; Sentinels or a cluster are asked for it.

    redis://  rediss://  unix://           the server that the URL names
    redis+sentinel://  rediss+sentinel://  the master; Sentinels are asked at each connect
    redis+cluster://  rediss+cluster://    the owner of a key's slot; nodes are asked likewise

All keys of a stream share a slot, so in a cluster one connection to its owner is enough.
"""

from __future__ import annotations

import re
import socket
from functools import partial
from pathlib import Path
from typing import Any, Final

from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.retry import Retry

from shared_sync.connection import client_names, credentials, url
from shared_sync.connection.connection import Connect
from shared_sync.connection.credentials import CredentialProvider
from shared_sync.connection.key_slots import slot_of
from shared_sync.connection.search import MasterSearch, OwnerSearch, Search, make_ask
from shared_sync.connection.url import Node
from shared_sync.errors import ConfigurationError

CONNECT_TIMEOUT_SECONDS: Final = 5.0

# Connections of readers are idle while a job runs. A probe each 30 s keeps firewalls from dropping
# them, and notices within 15 s that one was dropped. The defaults of systems are two hours.
_KEEPALIVE: Final = {
    getattr(socket, name): value
    for name, value in (
        ("TCP_KEEPIDLE", 30),
        ("TCP_KEEPALIVE", 30),  # the same on macOS
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 3),
    )
    if hasattr(socket, name)
}

_TLS_FILES: Final = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")


def connector(
    redis_url: str,
    *,
    key: str | None,
    reply_timeout_seconds: float,
    client_name: str = client_names.PREFIX,
    credential_provider: CredentialProvider | None = None,
) -> Connect:
    """Return a function that makes connections to `redis_url`, not opened yet. Never blocks.

    In a cluster they lead to the node that owns the slot of `key`, or to any node for None. They
    have the `client_name`, unless the URL has one. The provider is asked at each connect.
    Connections wait for a reply up to `reply_timeout_seconds`, and as long to be opened, 5 s at
    most. They retry nothing by themselves: a command that the driver sent a second time would
    publish twice, or leave a batch pending. Raises `ConfigurationError` for a URL that cannot be
    used.
    """
    address = url.read(redis_url)
    timeout = min(CONNECT_TIMEOUT_SECONDS, reply_timeout_seconds)
    name = address.options.get("client_name", client_name)
    options = address.options | {
        "socket_timeout": reply_timeout_seconds,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "health_check_interval": 0,
        "decode_responses": False,
        "protocol": 2,
        "redis_connect_func": client_names.Greeting(name),
        "client_name": None,
        "credential_provider": None,
    }
    if credential_provider is not None:
        if "password" in options or "username" in options:
            raise ConfigurationError(
                "redis_url has a user or password although credential_provider is given; leave "
                "them out of redis_url"
            )
        options["credential_provider"] = credentials.of_server(credential_provider)
    connection_class = options.pop("connection_class", Connection)
    if "path" not in options:
        options |= {
            "socket_connect_timeout": timeout,
            "socket_keepalive": True,
            "socket_keepalive_options": _KEEPALIVE,
        }
    if connection_class is SSLConnection:
        _check_tls(options)
    if address.master:
        ask = make_ask(connection_class, _for_sentinels(options, credential_provider), timeout)
        options["search"] = MasterSearch(address.nodes, ask, timeout, address.master)
    elif address.is_cluster:
        ask = make_ask(connection_class, options, timeout)
        options["search"] = OwnerSearch(address.nodes, ask, timeout, key)
    if address.nodes:
        is_tls = connection_class is SSLConnection
        connection_class = (_OF_CLUSTER if address.is_cluster else _OF_MASTER)[is_tls]
    connect = partial(connection_class, **options)
    try:
        connect()
    except Exception as error:  # noqa: BLE001 - each class of the driver raises its own
        raise ConfigurationError(
            f"redis_url has an option that this kind of connection does not take: {error}"
        ) from None
    return connect


def connector_of_process(redis_url: str, *, role: str, **options: Any) -> Connect:
    """Return `connector()`; the connections have a name that tells role, host and process.

    Called again in a forked process, it gives them another name.
    """
    return connector(redis_url, client_name=client_names.of_process(role), **options)


def _check_tls(options: dict[str, Any]) -> None:
    for name in _TLS_FILES:
        if name in options and not Path(options[name]).exists():
            raise ConfigurationError(f"{name} in redis_url: there is no {options[name]!r} here")
    # The default of the driver depends on its version.
    options.setdefault("ssl_check_hostname", options.get("ssl_cert_reqs") != "none")


def _for_sentinels(options: dict[str, Any], provider: CredentialProvider | None) -> dict[str, Any]:
    """Remove the options for Sentinels from `options`, and return those for connections to them."""
    own = options | {"db": 0}
    for name in ("username", "password"):
        own.pop(f"sentinel_{name}", None)
        own[name] = options.pop(f"sentinel_{name}", None)
    own["credential_provider"] = None if provider is None else credentials.of_sentinels(provider)
    if own["credential_provider"] is not None and (own["username"] or own["password"]):
        raise ConfigurationError(
            "redis_url has a user or password of the Sentinels although credential_provider has "
            "get_sentinel_credentials(); leave them out of redis_url"
        )
    return own


class _DiscoveredConnection(Connection):
    """A connection that asks for its server each time that it connects."""

    def __init__(self, *, search: Search, **options: Any) -> None:
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


class _ClusterConnection(_DiscoveredConnection):
    """A connection to the node of a cluster that has the key."""

    _redirected_to: Node | None = None

    def redirect(self, node: Node) -> None:
        """Let the next connect lead to this node, without asking for the owner of the key."""
        self._redirected_to = Node(node.host or self.host, node.port)

    def connect(self) -> None:
        node, self._redirected_to = self._redirected_to, None
        if node is None:
            super().connect()
        else:
            self.host, self.port = node
            Connection.connect(self)  # type: ignore[no-untyped-call]


class _DiscoveredTLSConnection(_DiscoveredConnection, SSLConnection):
    """The same with TLS."""


class _ClusterTLSConnection(_ClusterConnection, SSLConnection):
    """The same with TLS."""


# Without TLS, and with it.
_OF_MASTER: Final = (_DiscoveredConnection, _DiscoveredTLSConnection)
_OF_CLUSTER: Final = (_ClusterConnection, _ClusterTLSConnection)


def check_one_slot(redis_url: str, stream_name: str, result_stream: str, name: str) -> None:
    """Raise `ConfigurationError` if a cluster cannot write both streams in one script.

    `name` is an example of what `result_stream` stands for.
    """
    if not url.read(redis_url).is_cluster or slot_of(stream_name) == slot_of(name):
        return
    tag = re.search(r"{(.+?)}", stream_name)
    raise ConfigurationError(
        f"result_stream {result_stream!r} is in another slot of the cluster than stream_name "
        f"{stream_name!r}; give it the same hash tag, such as "
        f"'{{{tag.group(1) if tag else stream_name}}}:results'"
    )
