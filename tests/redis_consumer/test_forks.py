"""A consumer that is made before a fork works in the child; one that was started stays outside."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
import redis
from consumers import Make, owners, results
from helpers import Gate, ask, eventually, in_a_fork, start_program

from shared_sync import HealthServer, RedisStreamConsumer, RedisStreamProducer
from shared_sync.errors import ConsumerStateError
from shared_sync.redis_consumer.lifecycle import CHECK_SECONDS

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

PRELOADING_SERVER = """
    import logging, multiprocessing, signal, sys, threading
    from shared_sync import RedisStreamConsumer

    logging.basicConfig(level=logging.INFO)

    def processor(message_id, job):
        threading.Event().wait(float(job["seconds"]))
        print("done", flush=True)

    consumer = RedisStreamConsumer(sys.argv[1], "jobs", "workers", "w", None, processor)
    consumer.get_health_data()
    child = multiprocessing.get_context("fork").Process(target=consumer.start_consuming)
    child.start()
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    child.join()
    print(child.exitcode, consumer.state, flush=True)
"""


def test_a_consumer_that_is_made_before_a_fork_and_started_after_it_works(
    redis_url: str, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    program = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(PRELOADING_SERVER), redis_url]
    with start_program(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        for seconds in (2 * CHECK_SECONDS, 0):  # the first lasts until the threads were checked
            producer.publish({"seconds": seconds})
            assert server.stdout.readline() == "done\n"
            eventually(lambda: client.xlen("jobs") == 0)
        server.send_signal(signal.SIGTERM)
        output, errors = server.communicate(timeout=30)
    assert output == "0 new\n", errors
    assert "ended" not in errors
    assert not client.exists("{jobs}:workers:holders")


def test_parent_and_child_may_both_start_one_of_their_own(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    ran = threading.Event()
    consumers = [make(lambda *_: ran.set(), threads=2) for _ in range(2)]
    consumers[0].start()

    def work() -> list[object]:
        consumer = consumers[1]
        consumer.start()
        with RedisStreamProducer(producer_url, "jobs") as own:
            ids = own.publish_many({"n": n} for n in range(50))
        eventually(lambda: client.xlen("jobs") == 0)
        return [len(ids), consumer.live, consumer.stop(), consumer.state]

    producer_url = client_url(client)
    assert in_a_fork(work) == [50, True, True, "stopped"]
    assert consumers[0].live
    assert consumers[0].state == "running"
    assert consumers[1].state == "new"


def client_url(client: redis.Redis) -> str:
    options = client.connection_pool.connection_kwargs
    return f"redis://{options['host']}:{options['port']}/{options['db']}"


def test_a_copy_of_a_started_consumer_says_so_and_touches_nothing(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    slow = Gate()
    consumer = make(slow)
    message_id = producer.publish({"n": 1})
    consumer.start()
    assert slow.entered.wait(10)
    eventually(lambda: consumer.get_health_data()["queue_depth"] is not None)
    holder = client.hget("{jobs}:workers:holders", "consumer-1")

    def use_the_copy() -> object:
        refused = []
        for act in (consumer.connect, consumer.start, consumer.start_consuming):
            with pytest.raises(ConsumerStateError) as raised:
                act()
            refused.append(str(raised.value))
        assert len(set(refused)) == 1
        with HealthServer("web", 0, None, consumer.get_health_data, host="127.0.0.1") as server:
            probes = [
                ask(f"{server.url}/health/{probe}")[0] for probe in ("live", "ready", "startup")
            ]
        return [
            refused[0],
            probes,
            [consumer.live, consumer.ready, consumer.redis_connected, consumer.state],
            [consumer.stop(0), consumer.join(0)],
            consumer.get_views()["readers"]()["jobs"],
            consumer.get_health_data(),
        ]

    refused, probes, reported, ended, jobs, health = in_a_fork(use_the_copy)
    assert refused == (
        "consumer 'consumer-1' was started in another process, and only a new one can be "
        "connected or started; make a new RedisStreamConsumer"
    )
    assert probes == [200, 503, 200]
    assert reported == [True, False, False, "started in another process"]
    assert ended == [False, True]
    assert jobs == []
    assert health == {
        "status": "degraded",
        "reasons": ["started in another process"],
        "live": True,
        "ready": False,
        "started": True,
        "paused": False,
        "redis_connected": None,
        "consumer_state": "started in another process",
        "readers_alive": 0,
        "readers_stuck": 0,
        "jobs_late": 0,
        "jobs_in_flight": 0,
        "longest_job_seconds": 0.0,
        "jobs_unsettled": 0,
        "queue_depth": None,
        "queue_waiting": None,
        "jobs_parked": None,
        "dead_letters": None,
    }
    assert owners(client) == {"consumer-1": 1}
    (entry,) = client.xpending_range("jobs", "workers", "-", "+", 1)
    assert (entry["message_id"].decode(), entry["times_delivered"]) == (message_id, 1)
    assert client.hget("{jobs}:workers:holders", "consumer-1") == holder
    assert consumer.state == "running"
    slow.opened.set()
    eventually(lambda: client.xlen("jobs") == 0)


def test_a_copy_of_a_connected_consumer_leaves_its_parents_name_alone(
    make: Make, client: redis.Redis
) -> None:
    consumer = make(lambda *_: None)
    consumer.connect()

    def use_the_copy() -> object:
        with pytest.raises(ConsumerStateError, match="another process"):
            consumer.start()
        return [consumer.stop(), consumer.live]

    assert in_a_fork(use_the_copy) == [False, True]
    assert client.hexists("{jobs}:workers:holders", "consumer-1")
    consumer.start()
    assert consumer.state == "running"


def test_no_lock_that_a_parents_thread_holds_blocks_the_child(redis_url: str) -> None:
    """As when the parent's health server asks in the moment of the fork."""
    consumer = RedisStreamConsumer(
        redis_url, "jobs", "workers", "w", logging.getLogger("test"), lambda *_: None
    )
    life, pool = consumer._life, consumer._life.pool
    locks = [
        life._lock,
        pool._in_flight._lock,
        pool._running_jobs._lock,
        pool.watchdog._lock,
        pool.availability._lock,
        pool.availability._outage._lock,
    ]
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        for lock in locks:
            lock.acquire()
        held.set()
        assert forked.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)

    def work() -> list[object]:
        consumer.start()
        return [consumer.get_health_data()["live"], consumer.stop()]

    try:
        assert in_a_fork(work) == [True, True]
    finally:
        forked.set()
        holder.join(10)


RETURNING_TWICE = """
    import os, sys
    from shared_sync import RedisStreamConsumer

    def processor(message_id, job):
        if job["n"] == "1":
            child = os.fork()
            if child == 0:
                if sys.argv[2] == "raises":
                    raise ValueError
                return {"by": "child"}
            status = os.waitpid(child, 0)[1]
            return {"by": f"parent, child {status}"}
        return {"by": "parent"}

    RedisStreamConsumer(
        sys.argv[1], "jobs", "workers", "w", None, processor, prefetch=10, result_stream="results"
    ).start_consuming()
"""


@pytest.mark.parametrize("outcome", ["returns", "raises"])
def test_a_processor_that_forks_and_comes_back_in_both_processes_ends_one(
    outcome: str, redis_url: str, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    """Else the child would read and settle messages over the connection of its parent."""
    producer.publish_many({"n": n} for n in range(1, 6))
    program = textwrap.dedent(RETURNING_TWICE)
    with start_program([sys.executable, "-W", "ignore", "-c", program, redis_url, outcome]) as one:
        eventually(lambda: client.xlen("jobs") == 0)
        one.terminate()
        assert one.wait(30) == 0
    assert [result["by"] for result in results(client)] == ["parent, child 0", *["parent"] * 4]
