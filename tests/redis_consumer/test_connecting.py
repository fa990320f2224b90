"""Redis is away when a consumer starts: it waits, says so, and ends the wait when it is told to."""

from __future__ import annotations

import logging
import math
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest
import redis
from consumers import STREAM, Make
from helpers import ask, eventually, in_a_fork, start_program

from shared_sync import HealthServer, RedisStreamConsumer, RedisStreamProducer
from shared_sync.connection import connection as redis_connection
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import (
    ConfigurationError,
    ConsumerIdInUse,
    ConsumerStateError,
    GroupMissing,
    RedisAccessDenied,
    RedisRefused,
    RedisUnavailable,
    SharedSyncError,
)
from shared_sync.redis_consumer import connecting
from shared_sync.redis_consumer.connecting import may_pass, until_redis_answers

HOLDERS = "{jobs}:workers:holders"
PRESENCE = "{jobs}:workers:presence"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "LONGEST_PAUSE_SECONDS", 0.1)


@pytest.fixture
def silent_url() -> Iterator[str]:
    """The address of a server that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield f"redis://127.0.0.1:{silent.getsockname()[1]}"


def consuming(consumer: RedisStreamConsumer) -> threading.Thread:
    thread = threading.Thread(target=consumer.start_consuming, daemon=True)
    thread.start()
    return thread


# --- waiting for Redis ------------------------------------------------------------------------


def test_a_start_waits_until_redis_is_there_and_says_it_in_two_lines(
    own_server: EmbeddedRedis, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    own_server.kill()
    done = threading.Event()
    consumer = make(lambda *_: done.set(), url=own_server.url)
    runner = consuming(consumer)
    eventually(lambda: consumer.get_health_data()["reasons"][-1] == "starting: waiting for Redis")
    health = consumer.get_health_data()
    assert (health["live"], health["ready"], health["started"]) == (True, False, True)
    assert (health["status"], health["redis_connected"]) == ("unhealthy", False)
    assert health["reasons"][0] == "Redis does not answer"
    own_server.start()
    with RedisStreamProducer(own_server.url, STREAM) as producer:
        producer.publish({"n": 1})
    assert done.wait(15)
    eventually(lambda: consumer.ready)
    logged = [record.message for record in caplog.records]
    assert sum("trying again until it answers" in line for line in logged) == 1
    assert sum("answers again after" in line for line in logged) == 1
    assert consumer.stop() is True
    runner.join(10)


def test_a_probe_does_not_restart_a_worker_that_waits_for_redis(make: Make) -> None:
    consumer = make(lambda *_: None, url="redis://127.0.0.1:1")
    with HealthServer("stt-1", 0, None, consumer.get_health_data, host="127.0.0.1") as server:
        runner = consuming(consumer)
        eventually(lambda: ask(f"{server.url}/health/startup")[0] == 200)
        assert ask(f"{server.url}/health/live")[0] == 200
        assert ask(f"{server.url}/health/ready")[0] == 503
        consumer.stop()
        runner.join(10)


def test_the_wait_ends_after_connect_seconds_with_the_error(make: Make) -> None:
    for act in ("connect", "start", "start_consuming"):
        consumer = make(lambda *_: None, url="redis://127.0.0.1:1", connect_seconds=0.3)
        begun = time.monotonic()
        with pytest.raises(RedisUnavailable):
            getattr(consumer, act)()
        assert time.monotonic() - begun >= 0.3
        assert consumer.state == "new"


def test_connect_and_start_make_one_attempt_unless_told_otherwise(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    for act in ("connect", "start"):
        with pytest.raises(RedisUnavailable):
            getattr(make(lambda *_: None, url="redis://127.0.0.1:1"), act)()
    assert "trying again" not in caplog.text


def test_connect_may_wait_for_ever_and_a_stop_ends_it_at_once(
    make: Make, silent_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while an attempt hangs, which takes a minute here."""
    monkeypatch.setattr(redis_connection, "REPLY_MARGIN_SECONDS", 60.0)
    consumer = make(lambda *_: None, url=silent_url, connect_seconds=math.inf)
    connector = threading.Thread(target=consumer.connect)
    connector.start()
    assert consumer.stop() is True
    connector.join(20)
    assert not connector.is_alive()


def test_a_wrong_password_is_an_error_at_once(own_server: EmbeddedRedis, make: Make) -> None:
    with redis.Redis.from_url(own_server.url) as client:
        client.config_set("requirepass", "right")
    url = f"redis://:wrong@127.0.0.1:{own_server.port}"
    with pytest.raises(RedisAccessDenied):
        make(lambda *_: None, url=url).start_consuming()


def test_a_key_of_another_type_is_an_error_at_once(make: Make, client: redis.Redis) -> None:
    client.set(STREAM, "text")
    with pytest.raises(ConfigurationError, match="not a stream"):
        make(lambda *_: None).start_consuming()


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (RedisUnavailable("LOADING Redis is loading the dataset in memory"), True),
        (RedisUnavailable("Error -2 connecting to redis:6379. Name or service not known."), True),
        (RedisRefused("OOM command not allowed", code="OOM"), True),
        (RedisRefused("MISCONF Redis is configured to save RDB snapshots", code="MISCONF"), True),
        (RedisAccessDenied("WRONGPASS"), False),
        (RedisRefused("ERR unknown command"), False),
        (GroupMissing("NOGROUP", code="NOGROUP"), False),
        (ConfigurationError("no stream"), False),
        (ConsumerIdInUse("a", host=None, pid=None), False),
    ],
)
def test_only_what_may_pass_is_waited_for(error: SharedSyncError, passes: bool) -> None:
    assert may_pass(error) is passes


def test_pauses_grow_and_the_last_one_ends_with_the_time() -> None:
    now, pauses, told = 0.0, [], []

    def give_up(seconds: float) -> bool:
        nonlocal now
        now += seconds
        pauses.append(seconds)
        return False

    def connect(_: Callable[[float], bool]) -> bool:
        raise RedisUnavailable(f"attempt at {now}")

    with pytest.raises(RedisUnavailable):
        until_redis_answers(
            connect, give_up=give_up, for_seconds=5, on_failure=told.append, clock=lambda: now
        )
    assert now == 5
    assert len(told) == len(pauses)
    assert 0.05 <= pauses[0] <= 0.1


def test_a_claim_that_succeeds_after_all_is_undone() -> None:
    let_in, undone = threading.Event(), threading.Event()

    def connect(_: Callable[[float], bool]) -> bool:
        return let_in.wait(10)

    assert not connecting.interruptibly(connect, give_up=lambda _: True, undo=undone.set)
    assert not undone.is_set()
    let_in.set()
    assert undone.wait(10)


# --- signals ----------------------------------------------------------------------------------

WORKER = """
    import logging, sys
    from shared_sync import RedisStreamConsumer
    from shared_sync.connection import connection

    connection.REPLY_MARGIN_SECONDS = 60.0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    consumer = RedisStreamConsumer(sys.argv[1], "jobs", "workers", None, None, print)
"""
WAITING = (
    WORKER
    + """
    sys.exit(0 if consumer.start_consuming() else 1)
"""
)
LOADING = (
    WORKER
    + """
    consumer.connect()
    print("loading", file=sys.stderr, flush=True)
    import threading
    threading.Event().wait(600)  # loads a model
    consumer.start_consuming()
"""
)


@contextmanager
def program(text: str, url: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program that does not outlive the block."""
    command = [sys.executable, "-c", textwrap.dedent(text), url]
    with start_program(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_for_redis_at_once_and_with_status_0(
    silent_url: str, number: signal.Signals
) -> None:
    """Also while an attempt hangs, which takes a minute here."""
    with (
        program(WAITING, "redis://127.0.0.1:1") as refused,
        program(WAITING, silent_url) as hanging,
    ):
        for process in (refused, hanging):
            if process is refused:
                assert process.stderr is not None
                assert "trying again" in process.stderr.readline()
            else:
                eventually(lambda: is_connected_to(silent_url, hanging.pid))
            process.send_signal(number)
            assert process.wait(20) == 0


def is_connected_to(url: str, pid: int) -> bool:
    port = int(url.rpartition(":")[2])
    process = psutil.Process(pid)
    # The method has another name before psutil 6.
    connections = getattr(process, "net_connections", getattr(process, "connections", None))()
    return any(one.raddr and one.raddr.port == port for one in connections)


def test_a_signal_while_the_program_loads_its_model_ends_it_at_once(redis_url: str) -> None:
    with program(LOADING, redis_url) as process:
        assert process.stderr is not None
        assert "loading\n" in iter(process.stderr.readline, "")
        process.terminate()
        assert process.wait(20) == -signal.SIGTERM


HANDLING = (
    """
    import signal, sys
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
"""
    + LOADING
)


def test_process_1_of_a_container_needs_a_handler_to_be_ended_while_it_loads_its_model(
    redis_url: str,
) -> None:
    """Which the example has: the kernel drops a signal that process 1 does not handle."""
    container = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.call([*container, "true"]) != 0:
        pytest.skip("this user may not make a pid namespace")
    ended = {}
    for text in (HANDLING, LOADING):
        command = [*container, sys.executable, "-c", textwrap.dedent(text), redis_url]
        with start_program(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert "loading\n" in iter(process.stderr.readline, "")
            (first,) = psutil.Process(process.pid).children()
            first.terminate()
            try:
                ended[text] = process.wait(20 if text == HANDLING else 1)
            except subprocess.TimeoutExpired:
                process.kill()
    assert ended == {HANDLING: 0}


# --- the name is kept from connect() on --------------------------------------------------------


def test_a_name_outlives_its_lease_while_a_model_is_loaded(make: Make, client: redis.Redis) -> None:
    consumer = make(lambda *_: None, lease_seconds=1)
    consumer.connect()
    lease_end = client.zscore(PRESENCE, "consumer-1")
    eventually(lambda: client.zscore(PRESENCE, "consumer-1") > lease_end + 1000)
    with pytest.raises(ConsumerIdInUse):
        make(lambda *_: None, lease_seconds=1, consumer_id="consumer-1").connect()
    assert consumer.get_health_data()["reasons"] == ["not started"]
    assert consumer.redis_connected
    consumer.start()
    assert consumer.ready


def test_a_consumer_that_was_only_connected_notices_that_redis_is_gone(
    own_server: EmbeddedRedis, make: Make
) -> None:
    consumer = make(lambda *_: None, url=own_server.url, lease_seconds=1)
    consumer.connect()
    own_server.kill()
    eventually(lambda: not consumer.redis_connected)
    assert consumer.live
    assert any("Redis" in reason for reason in consumer.get_health_data()["reasons"])
    own_server.start()
    eventually(lambda: consumer.redis_connected)


def test_a_connected_consumer_that_is_stopped_leaves_and_does_not_come_back(
    make: Make, client: redis.Redis
) -> None:
    consumer = make(lambda *_: None, lease_seconds=1)
    consumer.connect()
    eventually(lambda: consumer.get_health_data()["queue_depth"] is not None)
    assert consumer.stop() is True
    assert not any("consumer-1" in thread.name for thread in threading.enumerate())
    assert not client.exists(HOLDERS, PRESENCE)


def test_a_name_that_is_lost_while_a_model_is_loaded_is_the_error_of_the_start(
    make: Make, client: redis.Redis
) -> None:
    consumer = make(lambda *_: None, lease_seconds=1)
    consumer.connect()
    client.hset(HOLDERS, "consumer-1", "another process")
    eventually(lambda: not consumer.live)
    with pytest.raises(ConsumerIdInUse):
        consumer.start_consuming()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("consumer_id", [None, "one"])
def test_a_forked_process_does_not_touch_the_name_that_its_parent_has_claimed(
    make: Make, client: redis.Redis, consumer_id: str | None
) -> None:
    consumer = make(lambda *_: None, consumer_id=consumer_id, lease_seconds=1)
    consumer.connect()
    name = consumer.consumer_id.encode()

    def use_it() -> str:
        try:
            with consumer:
                return consumer.consumer_id
        except ConsumerStateError as error:
            return str(error)

    assert "was started in another process" in in_a_fork(use_it)
    assert client.hkeys(HOLDERS) == [name]
    lease_end = client.zscore(PRESENCE, name)
    eventually(lambda: client.zscore(PRESENCE, name) > lease_end)


def test_a_wait_for_a_name_is_in_the_health_data(make: Make, client: redis.Redis) -> None:
    client.hset(HOLDERS, "twin", "an identity that cannot be read")
    client.zadd(PRESENCE, {"twin": int(client.time()[0]) * 1000 + 600_000})
    consumer = make(lambda *_: None, consumer_id="twin", lease_seconds=600)
    runner = consuming(consumer)
    eventually(lambda: "waiting for the name twin" in consumer.get_health_data()["reasons"][0])
    health = consumer.get_health_data()
    assert (health["live"], health["ready"], health["started"]) == (True, False, True)
    assert "its lease ends in 5" in health["reasons"][0] or "in 600" in health["reasons"][0]
    assert health["details"] == {"name": "twin is in use by another process"}
    assert consumer.stop() is True
    runner.join(10)
