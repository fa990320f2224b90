"""TLS with an authority of one's own and with certificates of clients, on every kind of address."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import redis
from helpers import ask, eventually, free_port, health_command
from protocol_client import interrupted_wait, make_connection
from servers import MASTER, SLOTS, sentinel
from tls import OPENSSL, Certificates, supports_tls

from shared_sync import DeadLetters, RedisStreamConsumer, RedisStreamProducer
from shared_sync.connection import discovery
from shared_sync.connection.connection import Connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import ConfigurationError, RedisUnavailable

STREAM, GROUP = "jobs", "workers"
RESULTS = "{jobs}:results"
BUS_OFFSET = 10_000
"""How far above its port a node of a cluster listens for other nodes."""


@pytest.fixture(scope="module")
def certificates(
    redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Certificates:
    if not supports_tls(redis_server.binary):
        pytest.skip(f"{redis_server.binary} was built without TLS")
    if OPENSSL is None:
        if os.environ.get("CI"):
            pytest.fail("no openssl program here, and CI must not skip what needs one")
        pytest.skip("no openssl program to make certificates with")
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def start(stack: ExitStack, binary: Path, *options: str) -> redis.Redis:
    """Start a server; a client that talks to it without TLS."""
    server = stack.enter_context(EmbeddedRedis(binary, extra_args=options))
    return stack.enter_context(redis.Redis(port=server.port, protocol=2))


@pytest.fixture(scope="module")
def addresses(
    stack: ExitStack,
    redis_server: EmbeddedRedis,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[str, redis.Redis]]:
    """Of each kind an address without its options, and a client of the server behind it."""
    binary = redis_server.binary
    port, member, watcher = free_port(), free_port(BUS_OFFSET), free_port()
    plain = start(stack, binary, *certificates.options(port))
    launcher = sentinel(binary, tmp_path_factory.mktemp("sentinel") / "sentinel", port, quorum=1)
    start(stack, launcher, *certificates.options(watcher))
    node = start(stack, binary, *certificates.options(member), "--cluster-enabled", "yes")
    node.execute_command("CLUSTER", "ADDSLOTS", *range(SLOTS))
    eventually(lambda: b"cluster_state:ok" in node.execute_command("CLUSTER", "INFO"))
    return {
        "rediss": (f"rediss://127.0.0.1:{port}/0", plain),
        "rediss+sentinel": (f"rediss+sentinel://127.0.0.1:{watcher}/{MASTER}/0", plain),
        "rediss+cluster": (f"rediss+cluster://127.0.0.1:{member}", node),
    }


@pytest.fixture(params=["rediss", "rediss+sentinel", "rediss+cluster"])
def address(
    request: pytest.FixtureRequest, addresses: dict[str, tuple[str, redis.Redis]]
) -> tuple[str, redis.Redis]:
    """The server behind it is empty."""
    url, client = addresses[request.param]
    client.flushall()
    return url, client


@pytest.fixture
def url(address: tuple[str, redis.Redis], certificates: Certificates) -> str:
    return f"{address[0]}?{certificates.query}"


@pytest.fixture
def client(address: tuple[str, redis.Redis]) -> redis.Redis:
    return address[1]


def test_producer_consumer_and_dead_letters_work(url: str, client: redis.Redis) -> None:
    pool = RedisStreamConsumer(
        url, STREAM, GROUP, "c1", None, lambda _, job: job, threads=2, result_stream=RESULTS
    )
    with RedisStreamProducer(url, STREAM) as producer, pool:
        ids = producer.publish_many({"n": n} for n in range(200))
        eventually(lambda: client.xlen(STREAM) == 0)
        told = [fields[b"message_id"].decode() for _, fields in client.xrange(RESULTS)]
        assert sorted(told) == sorted(ids)
    with DeadLetters(url, STREAM, GROUP) as letters:
        assert len(letters) == 0


def test_a_producer_keeps_its_connection(url: str, client: redis.Redis) -> None:
    """Although the server says things of its own accord, as TLS does after the handshake."""
    with RedisStreamProducer(url, STREAM) as producer:
        producer.publish({"n": 1})
        before = {row["id"] for row in client.client_list()}
        for n in range(20):
            producer.publish({"n": n})
        assert {row["id"] for row in client.client_list()} == before


def test_the_health_command_sees_it(url: str) -> None:
    with health_command("--port", "0", "--redis-url", url) as page:
        assert ask(f"{page}/health")[0] == 200


def test_a_blocked_wait_is_ended_from_another_thread(url: str, client: redis.Redis) -> None:
    with closing(make_connection(url)) as connection:
        assert interrupted_wait(connection, client) is None


def test_an_authority_that_is_not_trusted_is_refused(
    address: tuple[str, redis.Redis], certificates: Certificates
) -> None:
    query = certificates.query.partition("&")[2]
    with pytest.raises(RedisUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        make_connection(f"{address[0]}?{query}").open()


def test_a_client_without_the_certificate_that_is_asked_for_is_refused(
    address: tuple[str, redis.Redis], certificates: Certificates
) -> None:
    with pytest.raises(RedisUnavailable):
        make_connection(f"{address[0]}?ssl_ca_certs={certificates.authority}").open()


def test_the_host_is_checked_unless_that_is_switched_off(
    redis_server: EmbeddedRedis, certificates: Certificates, stack: ExitStack
) -> None:
    port = free_port()
    start(stack, redis_server.binary, *certificates.options(port, certificates.elsewhere))
    url = f"rediss://127.0.0.1:{port}/0?{certificates.query}"
    with pytest.raises(RedisUnavailable, match=r"(?i)mismatch|certificate is not valid"):
        make_connection(url).open()
    for unchecked in ("ssl_check_hostname=no", "ssl_cert_reqs=none"):
        with closing(make_connection(f"{url}&{unchecked}")) as connection:
            assert connection.call("PING") == b"PONG"


@pytest.mark.parametrize("form", ["rediss://{}/0", "rediss+sentinel://{}/m", "rediss+cluster://{}"])
def test_tls_that_a_port_does_not_speak_is_named_with_the_remedy(
    redis_server: EmbeddedRedis, form: str
) -> None:
    url = form.format(f"127.0.0.1:{redis_server.port}")
    connect = discovery.connector(url, key=STREAM, reply_timeout_seconds=1)
    remedy = "does not speak TLS: write redis:// instead of rediss://"
    with pytest.raises(RedisUnavailable, match=f"127.0.0.1:{redis_server.port}.*{remedy}") as got:
        Connection(connect).open()
    assert "TLS" in got.value.cause


def test_tls_that_is_missing_is_named_with_the_remedy(address: tuple[str, redis.Redis]) -> None:
    url = address[0].replace("rediss", "redis")
    remedy = "speaks TLS: write rediss:// instead of redis://"
    with pytest.raises(RedisUnavailable, match=rf"127\.0\.0\.1:\d+.*{remedy}") as caught:
        make_connection(url).open()
    assert "TLS" in caught.value.cause


def test_a_port_that_hangs_up_without_speaking_tls_is_not_taken_for_one_that_does() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            for _ in range(2):
                listener.accept()[0].close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        with pytest.raises(RedisUnavailable) as caught:
            make_connection(f"redis://127.0.0.1:{port}").open()
        thread.join(10)
        assert not thread.is_alive()  # it was asked whether it speaks TLS
    assert "TLS" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["rediss", "rediss+sentinel", "rediss+cluster"])
@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_ca_path"])
def test_a_file_that_is_not_there_is_named_at_once(scheme: str, option: str) -> None:
    path = "main" if scheme.endswith("sentinel") else ""
    with pytest.raises(ConfigurationError, match=f"{option}.*'/nowhere/x.pem'"):
        make_connection(f"{scheme}://user:s3cr3t@localhost/{path}?{option}=/nowhere/x.pem")
