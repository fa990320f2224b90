"""A user and password that change while a process runs are asked for at each connect."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
import redis
from consumers import GROUP, STREAM
from helpers import eventually
from protocol_client import KEYS
from servers import MASTER, Cluster, sentinel

from shared_sync import DeadLetters, RedisStreamConsumer, RedisStreamProducer, checks
from shared_sync.connection import discovery
from shared_sync.connection.connection import Connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import ConfigurationError, RedisAccessDenied, RedisUnavailable

SECRET = "s3cr3t"
LOGGER = logging.getLogger("tests.credentials")


class Vault(redis.CredentialProvider):
    """Has the password that is valid now."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.asked = 0

    def get_credentials(self) -> tuple[str, str]:
        self.asked += 1
        return "worker", self.password


@pytest.fixture
def admin(own_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_server.url, protocol=2) as made:
        yield made


def rotate(admin: redis.Redis, vault: Any, password: str, *rights: str) -> None:
    """Give the user another password, and end his connections."""
    rights = rights or ("~*", "&*", "+@all")
    admin.execute_command("ACL", "SETUSER", "worker", "on", "resetpass", f">{password}", *rights)
    vault.password = password
    admin.client_kill_filter(user="worker")


def connect(url: str, provider: Any, **options: Any) -> Connection:
    return Connection(
        discovery.connector(
            url, key=STREAM, reply_timeout_seconds=5, credential_provider=provider, **options
        )
    )


def test_everything_goes_on_when_the_password_is_rotated(
    own_server: EmbeddedRedis, admin: redis.Redis
) -> None:
    vault = Vault("first")
    rotate(admin, vault, "first")
    check = checks.redis(own_server.url, credential_provider=vault)
    done: list[str] = []
    with (
        RedisStreamProducer(own_server.url, STREAM, credential_provider=vault) as producer,
        DeadLetters(own_server.url, STREAM, GROUP, credential_provider=vault) as letters,
        RedisStreamConsumer(
            own_server.url,
            STREAM,
            GROUP,
            "c1",
            LOGGER,
            lambda message_id, _: done.append(message_id),
            credential_provider=vault,
        ) as consumer,
    ):
        for password in ("first", "second", "third"):
            rotate(admin, vault, password)
            eventually(lambda: consumer.ready)
            published = producer.publish({"n": 1})
            eventually(lambda published=published: published in done)
            assert len(letters) == 0
            assert "status" not in check()
    assert vault.asked > 9


def test_a_provider_without_redis_py_will_do(own_server: EmbeddedRedis, admin: redis.Redis) -> None:
    class Password:
        def get_credentials(self) -> tuple[str]:
            return (SECRET,)

    admin.config_set("requirepass", SECRET)
    with closing(connect(own_server.url, Password())) as connection:
        assert connection.call("PING") == b"PONG"


def test_a_password_that_is_not_valid_yet_is_asked_for_again(
    own_server: EmbeddedRedis, admin: redis.Redis
) -> None:
    vault = Vault("old")
    rotate(admin, vault, "new")
    vault.password = "old"
    with closing(connect(own_server.url, vault)) as connection:
        with pytest.raises(RedisAccessDenied):
            connection.call("PING")
        vault.password = "new"
        assert connection.call("PING") == b"PONG"


@pytest.mark.parametrize(
    "returned",
    [None, SECRET, [SECRET], (), ("worker", SECRET, "x"), ("worker", b"s3cr3t"), ("worker", None)],
)
def test_what_a_provider_must_not_return_is_unavailable_and_not_shown(
    redis_url: str, returned: Any
) -> None:
    class Wrong:
        def get_credentials(self) -> Any:
            return returned

    with pytest.raises(RedisUnavailable, match=r"must return \(password,\) or") as caught:
        connect(redis_url, Wrong()).open()
    assert SECRET not in str(caught.value)


def test_a_provider_that_fails_is_an_outage_of_which_the_text_is_not_shown(redis_url: str) -> None:
    class Failing(Vault):
        def get_credentials(self) -> Any:
            raise OSError(f"vault refused the token {SECRET}")

    with closing(connect(redis_url, Failing(""))) as connection:
        with pytest.raises(RedisUnavailable, match=r"get_credentials\(\) .* raised OSError") as got:
            connection.open()
        assert SECRET not in str(got.value)
        assert isinstance(got.value.__cause__, OSError)
        assert got.value.cause == "no credentials"


@pytest.mark.parametrize("url", [f"redis://u:{SECRET}@h", f"redis://h?password={SECRET}"])
def test_a_password_in_the_url_as_well_is_refused(url: str) -> None:
    for make in (RedisStreamProducer, checks.redis):
        arguments = (url, STREAM) if make is RedisStreamProducer else (url,)
        with pytest.raises(ConfigurationError, match="leave them out of redis_url") as caught:
            make(*arguments, credential_provider=Vault(""))  # type: ignore[operator]
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("wrong", [SECRET, ("u", SECRET), object(), lambda: (SECRET,)])
def test_what_is_no_provider_is_refused(redis_url: str, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="get_credentials") as caught:
        RedisStreamConsumer(
            redis_url, STREAM, GROUP, "c1", LOGGER, lambda *_: None, credential_provider=wrong
        )
    assert SECRET not in str(caught.value)


# --- Sentinels and clusters -----------------------------------------------------------------------


class TwoVaults(Vault):
    """Has a password of the Sentinels, too."""

    def get_sentinel_credentials(self) -> tuple[str, str]:
        return "asker", self.password


@pytest.fixture
def guarded(own_server: EmbeddedRedis, tmp_path: Any) -> Iterator[str]:
    """The address of a master behind a Sentinel; both ask for a user and a password."""
    launcher = sentinel(own_server.binary, tmp_path / "sentinel", own_server.port, quorum=1)
    with ExitStack() as stack:
        watcher = stack.enter_context(EmbeddedRedis(launcher))
        for port, name in ((own_server.port, "worker"), (watcher.port, "asker")):
            client = stack.enter_context(redis.Redis(port=port, protocol=2))
            client.execute_command("ACL", "SETUSER", name, "on", f">{SECRET}", "~*", "+@all")
            client.execute_command("ACL", "SETUSER", "default", "off")
        yield f"redis+sentinel://127.0.0.1:{watcher.port}/{MASTER}"


def test_sentinels_get_what_the_provider_has_for_them(guarded: str) -> None:
    with closing(connect(guarded, TwoVaults(SECRET))) as connection:
        assert connection.call("ACL", "WHOAMI") == b"worker"


def test_sentinels_get_what_the_url_has_for_them_and_never_the_password_of_the_master(
    guarded: str,
) -> None:
    url = f"{guarded}?sentinel_username=asker&sentinel_password={SECRET}"
    with closing(connect(url, Vault(SECRET))) as connection:
        assert connection.call("ACL", "WHOAMI") == b"worker"
    with pytest.raises(RedisAccessDenied, match="NOAUTH"):
        connect(guarded, Vault(SECRET)).open()
    with pytest.raises(ConfigurationError, match="get_sentinel_credentials"):
        connect(url, TwoVaults(SECRET))


def test_every_node_of_a_cluster_gets_what_the_provider_has(cluster: Cluster) -> None:
    clients = [cluster.admin(server) for server in cluster.servers]
    for client in clients:
        client.execute_command("ACL", "SETUSER", "worker", "on", f">{SECRET}", "~*", "+@all")
    with closing(connect(cluster.url, Vault(SECRET))) as connection:
        assert connection.call("ACL", "WHOAMI") == b"worker"
        assert connection.call("XLEN", KEYS.stream) == 0
    for client in clients:
        client.execute_command("ACL", "DELUSER", "worker")
