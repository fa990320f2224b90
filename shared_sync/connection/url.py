"""Parses a redis_url: the server, or the nodes to ask for it, and the driver's options."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from redis.connection import parse_url

from shared_sync.common import arguments
from shared_sync.errors import ConfigurationError

SENTINEL_PORT: Final = 26379
CLUSTER_PORT: Final = 6379

_FORMS: Final = (
    "redis://host:port/db, rediss://host:port/db, unix:///path/to/socket, "
    "redis+sentinel://host:port,host:port/master/db or redis+cluster://host:port,host:port"
)
_WITHOUT_EFFECT: Final = (
    "max_connections",
    "timeout",
    "socket_timeout",
    "socket_connect_timeout",
    "socket_keepalive",
    "retry_on_timeout",
    "retry_on_error",
    "health_check_interval",
    "decode_responses",
    "encoding",
    "encoding_errors",
    "protocol",
)
"""Options of redis-py that other programs may need in the same URL. What they say is decided by
this library, or is for a pool of the driver."""
_OPTIONS: Final = ("db", "username", "password", "client_name", *_WITHOUT_EFFECT)
_SENTINEL_OPTIONS: Final = ("sentinel_username", "sentinel_password")
_TLS_OPTIONS: Final = (
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_ca_data",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_password",
    "ssl_cert_reqs",
    "ssl_check_hostname",
    "ssl_ciphers",
    "ssl_validate_ocsp",
    "ssl_validate_ocsp_stapled",
    "ssl_ocsp_expected_cert",
)
_WHITESPACE: Final = re.compile(r"[\s\x00-\x1f\x7f]")
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
        cause = arguments.cause_of_address(redis_url)
        raise ConfigurationError(
            f"redis_url cannot be used ({type(error).__name__}){cause}; write {_FORMS}, and "
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


def server_of(redis_url: str) -> tuple[str, int | None] | None:
    """Return host and port of the server, or its socket file; None if others are asked for it.

    Raises as `read()` does.
    """
    address = read(redis_url)
    if address.nodes:
        return None
    path = address.options.get("path")
    if path is not None:
        return str(path), None
    return str(address.options.get("host", "localhost")), int(address.options.get("port", 6379))


def _parse(redis_url: str) -> Address:
    """Raises ValueError also if part of a password may have been taken for a host."""
    if _WHITESPACE.search(redis_url):
        raise _refusal("contains whitespace, such as the end of a line")
    scheme, _, rest = redis_url.partition("://")
    host_end = re.search(r"[/?#]|$", rest)
    assert host_end is not None  # noqa: S101 - "$" always matches
    user, at, hosts = rest[: host_end.start()].rpartition("@")
    tail = rest[host_end.start() :]
    if "@" in tail and scheme != "unix":
        raise ValueError
    path, _, query = tail.partition("#")[0].partition("?")
    driver_scheme, _, kind = scheme.partition("+")
    _check_options(query, user, is_tls=driver_scheme == "rediss", is_sentinel=kind == "sentinel")
    if driver_scheme in ("redis", "rediss") and kind in ("sentinel", "cluster"):
        if "@" in user:
            raise ValueError
        return _parse_several(scheme, f"{driver_scheme}://{user}{at}host", hosts, path, query)
    if scheme in ("redis", "rediss"):
        return _parse_server(redis_url, scheme, hosts, path)
    options = _driver_options(redis_url)  # raises for any other scheme
    if hosts:
        raise _refusal("needs three slashes in front of the path of a socket")
    if not options.get("path"):
        raise _refusal("names no socket")
    return Address(f"{scheme}://{options['path']}", options)


def _parse_server(redis_url: str, scheme: str, hosts: str, path: str) -> Address:
    if "," in hosts:
        raise _refusal("names several hosts, which only Sentinels and clusters have")
    (node,) = _nodes(hosts, 0)
    db = _db(path.removeprefix("/").removesuffix("/"))
    options = _driver_options(redis_url)
    if db and int(db) != options["db"]:
        raise _refusal("names two dbs")
    options["host"] = node.host
    shown = f"{_bracketed(node.host)}:{node.port}" if node.port else _bracketed(node.host)
    return Address(f"{scheme}://{shown}/{options.get('db', 0)}", options)


def _parse_several(scheme: str, driver_url: str, hosts: str, path: str, query: str) -> Address:
    """Parse a URL with several hosts; the driver parses what is left without them."""
    parts = [unquote(part) for part in path.split("/")[1:]]
    master = ""
    if scheme.endswith("+sentinel"):
        master, *parts = parts or [""]
        if not master:
            raise ConfigurationError(
                "redis_url names no master; write redis+sentinel://host:port,host:port/master/db "
                "with the name that 'sentinel monitor' gives it"
            )
    db = _db("/".join(parts))
    options = _driver_options(f"{driver_url}/{db}?{query}")
    if db and int(db) != options["db"]:
        raise _refusal("names two dbs")
    del options["host"]
    if not master and options.get("db"):
        raise ConfigurationError("redis_url names a db, and a cluster has only db 0; leave it out")
    nodes = _nodes(hosts, SENTINEL_PORT if master else CLUSTER_PORT)
    shown = f"{scheme}://{','.join(map(str, nodes))}"
    if master:
        shown += f"/{quote(master, safe='')}/{options.get('db', 0)}"
    return Address(shown, options, nodes, master)


def _check_options(query: str, user: str, *, is_tls: bool, is_sentinel: bool) -> None:
    """Refuse what would have no effect. No unknown name is shown: it may be part of a password."""
    allowed = {*_OPTIONS, *_TLS_OPTIONS, *(_SENTINEL_OPTIONS if is_sentinel else ())}
    name_of_user, _, password = user.partition(":")
    given = {"username"} if name_of_user else set()
    given |= {"password"} if password else set()
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in allowed:
            raise _refusal(f"has an option that is none of {', '.join(sorted(allowed))}")
        if name in _TLS_OPTIONS and not is_tls:
            raise _refusal(f"has the option {name}, which only rediss:// takes")
        if name in given:
            raise _refusal(f"has {name} twice")
        if not value:
            raise _refusal(f"has the option {name} without a value")
        if name == "db":
            _db(value)
        given.add(name)


def _db(text: str) -> str:
    """The number of a db, as text; empty for none."""
    if text and not re.fullmatch("[0-9]{1,9}", unquote(text)):
        raise _refusal(
            "names a db that is not a number; a db is a number, such as 0, and the stream is "
            "an argument of its own"
        )
    return unquote(text)


def _nodes(hosts: str, default_port: int) -> tuple[Node, ...]:
    nodes = []
    for host in hosts.split(","):
        split = urlsplit(f"//{host}")
        if not split.hostname:
            raise _refusal("names no host")
        if split.port == 0:
            raise _refusal("names port 0, at which nothing listens")
        nodes.append(Node(unquote(split.hostname), split.port or default_port))
    return tuple(nodes)


def _refusal(reason: str) -> ConfigurationError:
    return ConfigurationError(f"redis_url {reason}; write {_FORMS}")


def _driver_options(url: str) -> dict[str, Any]:
    """The options that the driver reads from a URL, without those that have no effect."""
    options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    return {name: value for name, value in options.items() if name not in _WITHOUT_EFFECT}


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
