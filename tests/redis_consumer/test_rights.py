"""The documented rights are enough, a missing one is named, and a full Redis can be emptied."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis
from consumers import DEAD, STREAM, Make
from helpers import Figures, eventually

from shared_sync import RedisStreamProducer, Reject, RetryPolicy
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import RedisAccessDenied, RedisRefused

REDIS_PAGE = Path(__file__).parents[2] / "docs" / "redis.md"
(LEAST_RIGHTS,) = re.findall(r"^    (~audio:jobs .+)$", REDIS_PAGE.read_text(), re.MULTILINE)
OPTIONAL_RIGHTS = ("+publish", "+xgroup|delconsumer", "+xgroup|create")
WORKERS_RIGHTS = (*LEAST_RIGHTS.replace("audio:jobs", STREAM).split(), *OPTIONAL_RIGHTS)


def grant(server: EmbeddedRedis, *rights: str) -> str:
    """Make a user with these rights; an address for it."""
    with redis.Redis.from_url(server.url, protocol=2) as admin:
        admin.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">pw", *rights)
    return server.url.replace("redis://", "redis://worker:pw@")


def test_each_of_the_least_rights_is_missed_at_the_start_or_optional_and_missed_once(
    own_server: EmbeddedRedis, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    make(lambda *_: None, url=own_server.url).connect()
    producer = RedisStreamProducer(own_server.url, STREAM)
    done: list[str] = []
    for missing in WORKERS_RIGHTS:
        rights = (right for right in WORKERS_RIGHTS if right != missing)
        url = grant(own_server, "resetchannels", *rights)
        consumer = make(
            lambda message_id, _: done.append(message_id),
            url=url,
            consumer_id="worker",
            result_channel="results:{client}",
        )
        if missing in OPTIONAL_RIGHTS:
            consumer.start()
            message_id = producer.publish({"client": "c"})
            eventually(lambda sought=message_id: sought in done)
            assert consumer.stop()
        else:
            with pytest.raises(RedisAccessDenied):
                consumer.start()
    producer.close()
    assert sum("xgroup|create" in text for text in caplog.messages) == 1


def test_the_documented_least_rights_are_enough(own_server: EmbeddedRedis, make: Make) -> None:
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        admin.execute_command(
            "ACL",
            "SETUSER",
            "worker",
            "on",
            ">pw",
            "resetchannels",
            "&results:*",
            "~results",
            *WORKERS_RIGHTS,
        )
        url = own_server.url.replace("redis://", "redis://worker:pw@")
        failing = RetryPolicy(max_attempts=2, base_seconds=0.05)

        def processor(_: str, job: dict[str, str]) -> str:
            if job["n"] == "0":
                raise ValueError("0")
            return job["n"]

        figures = Figures()
        with RedisStreamProducer(url, STREAM, max_queue_depth=100) as producer:
            producer.publish_many({"n": n, "client": "c"} for n in range(10))
        options = {"result_stream": "results", "result_channel": "results:{client}"}
        consumer = make(processor, url=url, retry=failing, metrics=figures, prefetch=3, **options)
        consumer.start()
        eventually(lambda: admin.xlen("results") == 10 and admin.xlen(STREAM) == 0)
        admin.delete(STREAM)
        eventually(lambda: figures.counters["groups_recreated"] == 1)
        assert consumer.stop()
        assert admin.xlen(DEAD) == 1
        refused = {entry["object"] for entry in admin.acl_log()}
        # Greetings, one try of what newer servers have, and what is looked at if that is allowed.
        greetings = {"client|setinfo", "client|setname", "client"}
        # Servers before 7.0 name no subcommand.
        optional = {"xackdel", "xdelex", "xinfo|stream", "xinfo", "info", "pexpire"}
        assert refused <= {*greetings, *optional}


def test_a_right_that_is_missing_is_an_error_at_the_start(
    own_server: EmbeddedRedis, make: Make
) -> None:
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        rights = ("on", ">pw", "~jobs", "~{jobs}:*", "+@all")
        admin.execute_command("ACL", "SETUSER", "worker", *rights)
    url = own_server.url.replace("redis://", "redis://worker:pw@")
    with pytest.raises(RedisAccessDenied, match="NOPERM"):
        make(lambda *_: None, url=url, result_stream="results").start()
    with pytest.raises(RedisAccessDenied):
        make(lambda *_: None, url=url.replace(":pw@", ":wrong@")).start()


def test_a_channel_that_may_not_be_used_is_logged_once_and_counted(
    own_server: EmbeddedRedis, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis.from_url(own_server.url, protocol=2) as admin:
        rights = ("on", ">pw", "~*", "+@all", "resetchannels")
        admin.execute_command("ACL", "SETUSER", "worker", *rights)
    url = own_server.url.replace("redis://", "redis://worker:pw@")
    figures = Figures()
    with RedisStreamProducer(url, STREAM) as producer:
        producer.publish_many({"client": "c", "n": n} for n in range(3))

    def processor(_: str, job: dict[str, str]) -> str:
        if job["n"] == "2":
            raise Reject("no")
        return "done"

    make(processor, url=url, metrics=figures, result_channel="results:{client}").start()
    eventually(lambda: figures.counters["results_unpublished"] == 3)
    assert figures.counters["jobs_processed"] == 2
    eventually(lambda: figures.counters["jobs_dead"] == 1)
    assert sum("grant the worker's user" in text for text in caplog.messages) == 1


def test_a_full_redis_is_emptied_and_its_workers_stay_alive(
    own_server: EmbeddedRedis, make: Make
) -> None:
    """Also by a worker that starts only then."""
    with (
        redis.Redis.from_url(own_server.url, protocol=2) as client,
        RedisStreamProducer(own_server.url, STREAM) as producer,
    ):
        first = make(lambda *_: "done", url=own_server.url)
        first.start()
        assert first.stop()
        producer.publish_many({"audio": b"x" * 10_000} for _ in range(20))
        client.config_set("maxmemory", 1)
        with pytest.raises(RedisRefused) as caught:
            producer.publish({"n": 1})
        assert caught.value.code == "OOM"
        make(
            lambda *_: "done", url=own_server.url, result_stream="results", lease_seconds=3
        ).start()
        eventually(lambda: client.xlen(STREAM) == 0)
        assert client.xlen("results") == 20
        presence = "{jobs}:workers:presence"
        begun = client.zscore(presence, "consumer-2")
        eventually(lambda: client.zscore(presence, "consumer-2") > begun)
