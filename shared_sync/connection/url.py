"""Parses a redis_url: the server, or the nodes to ask for it, and the driver's options."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from redis.connection import parse_url

from shared_sync.errors import ConfigurationError

SENTINEL_PORT: Final = 26379
CLUSTER_PORT: Final = 6379

_FORMS: Final = (
    "redis://host:port/db, rediss://host:port/db, unix:///path/to/socket, "
    "redis+sentinel://host:port,host:port/master/db or redis+cluster://host:port,host:port"
)
_UNREADABLE: Final = (ValueError, TypeError, AttributeError)


class Node(NamedTuple):
    """Host and port of a server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True)
class Address:
    """A parsed redis_url."""

    shown: str
    """The URL without user, password and query, for logs and errors."""

    options: dict[str, Any]
    """Keyword arguments of the driver's connections."""

    nodes: tuple[Node, ...] = ()
    """Sentinels or nodes of a cluster, which are asked for the server; empty if it is named."""

    master: str = ""
    """The name under which Sentinels know the master; empty for anything else."""

    @property
    def is_cluster(self) -> bool:
        return bool(self.nodes) and not self.master


def read(redis_url: str) -> Address:
    """Parse the URL. Raises `ConfigurationError`, which shows no part of the URL.

    Any part may belong to a password that was not percent-encoded.
    """
    try:
        return _parse(redis_url)
    except _UNREADABLE as error:
        raise ConfigurationError(
            f"redis_url cannot be used ({type(error).__name__}); write {_FORMS}, and "
            "percent-encode / ? # and @ in a password"
        ) from None


def safe_address(redis_url: str) -> str:
    """The URL without user, password and query, for logs and errors; raises nothing.

    A URL that cannot be read, such as one whose password is not percent-encoded, is not shown.
    """
    try:
        return _parse(redis_url).shown
    except (*_UNREADABLE, ConfigurationError):
        return "an address that cannot be read"


def _parse(redis_url: str) -> Address:
    """Raises ValueError also if part of a password may have been taken for a host."""
    scheme, _, rest = redis_url.partition("://")
    host_end = re.search(r"[/?#]|$", rest)
    assert host_end is not None  # noqa: S101 - "$" always matches
    tail = rest[host_end.start() :]
    if "@" in tail and scheme != "unix":
        raise ValueError
    driver_scheme, _, kind = scheme.partition("+")
    if driver_scheme in ("redis", "rediss") and kind in ("sentinel", "cluster"):
        user, at, hosts = rest[: host_end.start()].rpartition("@")
        if "@" in user:
            raise ValueError
        return _parse_several(scheme, f"{driver_scheme}://{user}{at}host", hosts, tail)
    options = _driver_options(redis_url)
    if "path" in options:
        return Address(f"{scheme}://{options['path']}", options)
    host = _bracketed(options.get("host", "localhost"))
    port = f":{options['port']}" if "port" in options else ""
    return Address(f"{scheme}://{host}{port}/{options.get('db', 0)}", options)


def _parse_several(scheme: str, driver_url: str, hosts: str, tail: str) -> Address:
    """Parse a URL with several hosts; the driver parses what is left without them."""
    path = re.split(r"[?#]", tail)[0]
    parts = [unquote(part) for part in path.split("/")[1:]]
    master = ""
    if scheme.endswith("+sentinel"):
        master, *parts = parts or [""]
        if not master:
            raise ConfigurationError(
                "redis_url names no master; write redis+sentinel://host:port,host:port/master/db "
                "with the name that 'sentinel monitor' gives it"
            )
    db = "".join(parts)
    if len(parts) > 1 or (db and not db.isdecimal()):
        raise ValueError
    options = _driver_options(f"{driver_url}/{db}{tail.removeprefix(path)}")
    del options["host"]
    options.pop("port", None)
    if not master and options.get("db"):
        raise ConfigurationError("redis_url names a db, and a cluster has only db 0; leave it out")
    nodes = _nodes(hosts, SENTINEL_PORT if master else CLUSTER_PORT)
    shown = f"{scheme}://{','.join(map(str, nodes))}"
    if master:
        shown += f"/{quote(master, safe='')}/{options.get('db', 0)}"
    return Address(shown, options, nodes, master)


def _nodes(hosts: str, default_port: int) -> tuple[Node, ...]:
    nodes = []
    for host in hosts.split(","):
        split = urlsplit(f"//{host}")
        if not split.hostname:
            raise ValueError
        nodes.append(Node(unquote(split.hostname), split.port or default_port))
    return tuple(nodes)


def _driver_options(url: str) -> dict[str, Any]:
    options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    for pool_option in ("max_connections", "timeout"):
        options.pop(pool_option, None)
    return options


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
