"""Where a HealthServer listens: which addresses, of which families; and ports that are taken."""

from __future__ import annotations

import errno
import logging
import os
import socket
import urllib.request

import pytest
from health_servers import LIMIT, ask

from shared_sync.errors import PortUnavailable
from shared_sync.health_server import HealthServer


def ipv6_works() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not ipv6_works(), reason="this machine has no IPv6")
needs_both = pytest.mark.skipif(
    not (ipv6_works() and socket.has_dualstack_ipv6()), reason="this machine has no dual stack"
)


def test_port_0_finds_a_free_port_and_returns_it(serve):
    first, second = serve(), serve()

    assert 0 < first.port != second.port > 0
    assert first.url == f"http://127.0.0.1:{first.port}"


def test_before_the_start_the_port_is_the_one_asked_for():
    server = HealthServer("worker-1", 8080, None, dict)

    assert (server.port, server.url) == (8080, "http://127.0.0.1:8080")


def test_a_taken_port_raises_in_the_callers_thread_and_names_the_remedy(serve):
    port = serve().port
    server = HealthServer("worker-2", port, None, dict, host="127.0.0.1")

    with pytest.raises(PortUnavailable, match=rf"'127.0.0.1', port {port}: .* choose another port"):
        server.start_server()
    assert server.stop_server() is True


def test_a_port_that_is_free_again_can_be_used():
    first = HealthServer("worker-1", 0, None, dict, host="127.0.0.1")
    first.start_server()
    second = HealthServer("worker-2", first.port, None, dict, host="127.0.0.1")
    with pytest.raises(PortUnavailable):
        second.start_server()
    first.stop_server()
    with second:
        assert ask(second).json["instance_id"] == "worker-2"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_a_port_this_user_may_not_open_names_the_remedy(monkeypatch, code):
    def refuse(*args: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(PortUnavailable, match=r"all addresses, port 80: .* from 1024 up"):
        HealthServer("worker-1", 80, None, dict).start_server()


@pytest.mark.parametrize("host", ["192.0.2.7", "no.such.host.invalid", "a" * 70])
def test_a_host_that_is_not_this_machine_names_the_remedy(host):
    with pytest.raises(PortUnavailable, match=r"port 8080: .* address of this machine"):
        HealthServer("worker-1", 8080, None, dict, host=host).start_server()


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "::"])
def test_it_listens_on_ipv6(serve, host):
    server = serve(host=host)

    assert server.url == f"http://[::1]:{server.port}"
    with urllib.request.urlopen(server.url + "/health", timeout=LIMIT) as response:
        assert response.status == 200


@needs_both
def test_the_ipv6_wildcard_takes_ipv4_too(serve):
    assert ask(serve(host="::")).code == 200


def code_over(address: str, port: int) -> int:
    with urllib.request.urlopen(f"http://{address}:{port}/health/live", timeout=LIMIT) as answer:
        return int(answer.status)


@needs_both
def test_by_default_it_listens_on_ipv6_and_ipv4(serve, caplog):
    caplog.set_level(logging.INFO)
    server = serve(host=None)

    assert code_over("127.0.0.1", server.port) == 200
    assert code_over("[::1]", server.port) == 200
    assert server.url == f"http://127.0.0.1:{server.port}"
    assert f"listens on all addresses, IPv6 and IPv4, port {server.port}" in caplog.text


def no_dual_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)


def no_ipv6_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if IPv6 was compiled in and switched off."""
    create = socket.create_server

    def refuse(address, *, family, **options):
        if family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        return create(address, family=family, **options)

    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: True)
    monkeypatch.setattr(socket, "create_server", refuse)


@pytest.mark.parametrize("take_away", [no_dual_stack, no_ipv6_address])
def test_a_machine_without_ipv6_gets_ipv4(serve, monkeypatch, caplog, take_away):
    caplog.set_level(logging.INFO)
    with monkeypatch.context() as lacking:
        take_away(lacking)
        server = serve(host=None)

    assert code_over("127.0.0.1", server.port) == 200
    assert f"listens on all IPv4 addresses, port {server.port}" in caplog.text


@needs_ipv6
def test_the_ipv4_wildcard_does_not_listen_on_ipv6(serve):
    server = serve(host="0.0.0.0")

    assert code_over("127.0.0.1", server.port) == 200
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("::1", server.port), LIMIT)


@pytest.mark.parametrize("holder", ["127.0.0.1", "0.0.0.0", None])
def test_a_port_that_one_family_holds_is_taken(serve, holder):
    port = serve(host=holder).port

    with pytest.raises(PortUnavailable, match=rf"all addresses, port {port}: the port is taken"):
        HealthServer("worker-2", port, None, dict).start_server()
