"""What a redis_url says: where to connect or whom to ask, and the driver's options."""

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
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True)
class Address:
    """A redis_url taken apart."""

    shown: str
    """Without user, password and query."""

    options: dict[str, Any]
    """For the driver's connections."""

    nodes: tuple[Node, ...] = ()
    """Whom to ask for the server: Sentinels, or nodes of a cluster."""

    master: str = ""
    """The name under which Sentinels know the master; empty for anything else."""

    @property
    def is_cluster(self) -> bool:
        return bool(self.nodes) and not self.master


def read(redis_url: str) -> Address:
    """Raises `ConfigurationError`, which shows nothing of the URL: it may be a part of a secret."""
    try:
        return _parse(redis_url)
    except _UNREADABLE as error:
        raise ConfigurationError(
            f"redis_url cannot be used ({type(error).__name__}); write {_FORMS}, and "
            "percent-encode / ? # and @ in a password"
        ) from None


def safe_address(redis_url: str) -> str:
    """Where the URL leads, for logs and errors; no user, password or query, however misplaced."""
    try:
        return _parse(redis_url).shown
    except (*_UNREADABLE, ConfigurationError):
        return "an address that cannot be read"


def _parse(redis_url: str) -> Address:
    """Raises ValueError also where part of a password looks like a host."""
    scheme, _, rest = redis_url.partition("://")
    host_end = re.search(r"[/?#]|$", rest)
    assert host_end is not None  # noqa: S101 - the end of the text is there
    tail = rest[host_end.start() :]
    if "@" in tail and scheme != "unix":
        raise ValueError
    driver_scheme, _, kind = scheme.partition("+")
    if driver_scheme in ("redis", "rediss") and kind in ("sentinel", "cluster"):
        user, at, hosts = rest[: host_end.start()].rpartition("@")
        if "@" in user:
            raise ValueError
        return _parse_many(scheme, f"{driver_scheme}://{user}{at}host", hosts, tail)
    options = _driver_options(redis_url)
    if "path" in options:
        return Address(f"{scheme}://{options['path']}", options)
    host = _bracketed(options.get("host", "localhost"))
    port = f":{options['port']}" if "port" in options else ""
    return Address(f"{scheme}://{host}{port}/{options.get('db', 0)}", options)


def _parse_many(scheme: str, driver_url: str, hosts: str, tail: str) -> Address:
    """An address of several hosts: the driver understands the rest of it."""
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
