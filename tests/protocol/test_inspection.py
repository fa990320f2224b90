"""Reading a group for the page: from which server, with which rights, at which cost."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from unittest.mock import ANY

import pytest
import redis
from consumers import DEAD, GROUP, STREAM, Make
from group_views import EMPTY, EMPTY_REPORT, add_dead_letter, commands_during, view_of
from helpers import eventually
from protocol_client import GroupAdmin, Worker, make_connection
from servers import Cluster, Sentinels

from shared_sync import RedisStreamProducer, Retry
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import RedisAccessDenied, RedisRefused, RedisUnavailable
from shared_sync.protocol.inspection import GroupView

REDIS_PAGE = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
(LEAST_RIGHTS,) = re.findall(r"^    (~audio:jobs .+)$", REDIS_PAGE, re.MULTILINE)
WORKERS_RIGHTS = (*LEAST_RIGHTS.replace("audio:jobs", STREAM).split(), "+xgroup|create")
PAGES_RIGHTS = {"+xinfo|consumers": "consumers", "+xrevrange": "dead_letters"}


def test_a_group_that_does_not_exist_has_empty_tables(view: GroupView, client: redis.Redis) -> None:
    for act in (
        str,
        partial(client.xadd, STREAM, {"n": 1}),
        partial(client.xgroup_create, STREAM, GROUP),
    ):
        act()
        tables = view.read()
        assert tables.pop("report") == EMPTY_REPORT | {"alive": ANY}
        assert tables == EMPTY
    assert client.keys() == [STREAM.encode()]


def test_a_reading_is_two_commands_in_one_round_trip_and_leaves_no_connection(
    worker: Worker, taken: list[str], client: redis.Redis, view: GroupView
) -> None:
    commands = commands_during(client, view.read)
    sent = [command.partition(" ")[0] for kind, command in commands if kind != "lua"]
    # An older driver cannot parse some commands of scripts, and returns them as empty.
    assert [name for name in sent if name not in ("SCRIPT", "CLIENT", "")] == ["EVALSHA"] * 2
    before = client.info("clients")["connected_clients"]
    view.read()
    eventually(lambda: client.info("clients")["connected_clients"] <= before)


def test_a_reading_writes_nothing(
    worker: Worker, taken: list[str], admin: GroupAdmin, view: GroupView
) -> None:
    worker.park(taken[0])
    worker.bury(taken[1])
    before = admin.everything()
    assert view.read()["parked_total"] == 1
    assert admin.everything() == before


def test_it_finds_the_master_that_has_the_group(sentinels: Sentinels) -> None:
    expect_a_view(sentinels.url)


def test_it_finds_the_node_of_a_cluster_that_has_the_group(cluster: Cluster) -> None:
    expect_a_view(cluster.url)


def expect_a_view(url: str) -> None:
    with closing(make_connection(url)) as connection:
        worker = Worker(connection, "w1", results=None)
        first, second = worker.publish([b"n", b"1"], [b"n", b"2"])
        assert len(worker.read()) == 2
        worker.park(first)
        worker.bury(second)
        tables = view_of(url).read()
    assert [row["name"] for row in tables["consumers"]] == ["w1"]
    assert [row["message_id"] for row in tables["parked"]] == [first]
    assert [row["message_id"] for row in tables["dead_letters"]] == ["?"]


def test_an_absent_redis_is_unavailable_and_is_read_again_once_it_is_back(
    own_server: EmbeddedRedis,
) -> None:
    view = view_of(own_server.url)
    with redis.Redis.from_url(own_server.url) as client:
        add_dead_letter(client)
    assert view.read()["dead_letters_total"] == 1
    own_server.kill()
    with pytest.raises(RedisUnavailable):
        view.read()
    own_server.start()
    assert len(view.read()["dead_letters"]) == 1


@pytest.fixture
def grant(own_server: EmbeddedRedis) -> Callable[..., str]:
    """Return a function that makes a user with these rights and returns the address for it."""

    def make_user(*rights: str) -> str:
        with redis.Redis.from_url(own_server.url, protocol=2) as admin:
            admin.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">s3cret", *rights)
        return own_server.url.replace("redis://", "redis://worker:s3cret@")

    return make_user


def test_with_the_rights_of_a_worker_the_page_says_which_rights_it_lacks(
    grant: Callable[..., str], make: Make
) -> None:
    url = grant(*WORKERS_RIGHTS)
    done: list[str] = []

    def processor(message_id: str, job: dict[str, str]) -> None:
        if job["n"] == "1":
            raise Retry(3600)
        done.append(message_id)

    consumer = make(processor, url=url)
    consumer.start()
    with RedisStreamProducer(url, STREAM) as producer:
        ids = producer.publish_many([{"n": 1}, {"n": 2}])
    eventually(lambda: done == ids[1:] and consumer.get_group_view()["parked_total"] == 1)
    tables = consumer.get_group_view()
    assert [row["message_id"] for row in tables["parked"]] == ids[:1]
    assert not {"consumers", "consumers_total", "dead_letters", "dead_letters_total"} & set(tables)
    assert tables["reasons"] == [
        "consumers are not shown: grant this Redis user +xinfo|consumers",
        "dead letters are not shown: grant this Redis user +xrevrange",
    ]
    assert consumer.redis_connected
    assert consumer.stop()


@pytest.mark.parametrize("missing", PAGES_RIGHTS)
def test_each_right_of_the_page_switches_one_table_on(
    grant: Callable[..., str], client: redis.Redis, make: Make, missing: str
) -> None:
    assert all(f"`{right}`" in REDIS_PAGE for right in PAGES_RIGHTS)
    table = PAGES_RIGHTS[missing]
    make(print, url=grant(*WORKERS_RIGHTS, *PAGES_RIGHTS)).connect()
    url = grant(*WORKERS_RIGHTS, *(set(PAGES_RIGHTS) - {missing}))
    tables = view_of(url).read()
    assert {"consumers", "parked", "dead_letters"} - set(tables) == {table}
    assert missing in tables["reasons"][0]
    tables = view_of(grant(*WORKERS_RIGHTS, *PAGES_RIGHTS)).read()
    assert table in tables
    assert "reasons" not in tables


def test_a_user_who_may_not_read_the_group_is_denied(grant: Callable[..., str]) -> None:
    rights = set(WORKERS_RIGHTS) - {"+xpending"}
    with pytest.raises(RedisAccessDenied):
        view_of(grant(*rights)).read()


def test_a_key_of_another_type_switches_off_its_table_alone(
    worker: Worker, taken: list[str], client: redis.Redis, view: GroupView
) -> None:
    worker.park(taken[0])
    client.set(DEAD, "secret")
    tables = view.read()
    assert tables["reasons"] == ["dead letters are not shown: Redis refused it (WRONGTYPE)"]
    assert [tables["parked_total"], tables["consumers_total"]] == [1, 1]


def test_a_key_that_is_not_a_stream_is_refused(client: redis.Redis, view: GroupView) -> None:
    client.set(STREAM, "text")
    with pytest.raises(RedisRefused):
        view.read()
