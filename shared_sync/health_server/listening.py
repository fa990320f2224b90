"""Opens the socket that a health server listens on: on IPv6 and IPv4 where the machine has both."""

from __future__ import annotations

import errno
import socket

from shared_sync.errors import PortUnavailable

IPV4_WILDCARD = "0.0.0.0"  # noqa: S104 - probes come from other machines
IPV6_WILDCARD = "::"

_NOT_HERE = "give an address of this machine, or no host for all of them"
_REMEDIES = {
    errno.EADDRINUSE: "the port is taken; stop the program that holds it, or choose another port "
    "(0 picks a free one)",
    errno.EACCES: "this user may not open the port; choose one from 1024 up",
    errno.EPERM: "this user may not open the port; choose one from 1024 up",
    errno.EADDRNOTAVAIL: f"the host is not this machine; {_NOT_HERE}",
}
_OTHER_FAMILY_HAS_IT_TOO = (errno.EADDRINUSE, errno.EACCES, errno.EPERM)
"""Why a port cannot be opened, whatever the kind of address."""


def listen(host: str | None, port: int) -> socket.socket:
    """Return a socket that listens on the host; None for all addresses of the machine.

    With None and with "::" it listens on IPv6 and IPv4. Without IPv6, None listens on IPv4 alone. A
    name that has addresses of both kinds is taken for its IPv4 address. Raises `PortUnavailable`,
    which names the remedy.
    """
    try:
        return _listen_everywhere(port) if host is None else _listen_on(host, port)
    except (OSError, ValueError) as error:  # ValueError: a host that no resolver accepts
        number = error.errno if isinstance(error, OSError) else None
        known = _REMEDIES.get(number) if number else None
        where = "all addresses" if host is None else f"host {host!r}"
        raise PortUnavailable(
            f"health server cannot listen on {where}, port {port}: "
            + (known or f"{error}; {_NOT_HERE}")
        ) from error


def describe(listener: socket.socket) -> str:
    """Return where a socket listens, for a log."""
    host, port, *_ = listener.getsockname()
    if host == IPV4_WILDCARD:
        where = "all IPv4 addresses"
    elif host == IPV6_WILDCARD:
        where = "all addresses, IPv6 and IPv4" if _takes_ipv4(listener) else "all IPv6 addresses"
    else:
        where = host
    return f"{where}, port {port}"


def _listen_everywhere(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return _listen_on(IPV6_WILDCARD, port)
        except OSError as error:  # of a machine whose IPv6 is switched off, for example
            if error.errno in _OTHER_FAMILY_HAS_IT_TOO:
                raise
    return _listen_on(IPV4_WILDCARD, port)


def _listen_on(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    both = address[0] == IPV6_WILDCARD and socket.has_dualstack_ipv6()
    return socket.create_server(address, family=family, dualstack_ipv6=both)


def _takes_ipv4(listener: socket.socket) -> bool:
    return not listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
