"""A program that ends while a consumer runs hands its messages back, and charges no crash."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from consumers import Make, dead_letters, owners, results
from helpers import eventually, start_program

from shared_sync import RedisStreamProducer, current_message

PROGRAM = """
    import atexit, sys, threading
    from shared_sync import RedisStreamConsumer, RetryPolicy

    entered = threading.Event()

    def processor(message_id, job):
        entered.set()
        exec(job["act"])
        return {"done": 1}

    consumer = RedisStreamConsumer(
        sys.argv[1], "jobs", "workers", "w", None, processor, result_stream="results",
        retry=RetryPolicy(max_attempts=1), drain_seconds=float(sys.argv[2]),
    )
    consumer.start()
    entered.wait(30)
    print("runs", flush=True)
"""
IN_A_PROCESS_OF_ITS_OWN = """
    import multiprocessing, sys
    from shared_sync import RedisStreamConsumer, RetryPolicy

    def work(method):
        import threading
        entered = threading.Event()

        def processor(message_id, job):
            entered.set()
            threading.Event().wait()

        consumer = RedisStreamConsumer(
            sys.argv[1], "jobs", "workers", "w", None, processor, drain_seconds=0.2
        )
        consumer.start()
        entered.wait(30)
        if method == "raise":
            raise OSError("the port is taken")

    if __name__ == "__main__":
        child = multiprocessing.get_context("fork").Process(target=work, args=(sys.argv[2],))
        child.start()
        child.join()
        print(child.exitcode)
"""
FOR_EVER = "threading.Event().wait()"
UNTIL_IT_DRAINS = """
import threading
while consumer.state != 'draining':
    threading.Event().wait(0.01)
print('drains', flush=True)
"""
LIKE_LATER_PYTHONS = """
    def refuse(thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    atexit.register(lambda: setattr(threading.Thread, "start", refuse))
"""


@contextmanager
def program(ending: str, url: str, *, drain_seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A program that ends so after its consumer has begun to run a message."""
    text = textwrap.dedent(PROGRAM) + textwrap.dedent(ending)
    command = [sys.executable, "-c", text, url, str(drain_seconds)]
    with start_program(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "runs\n"
            yield started
        finally:
            started.kill()


@pytest.mark.parametrize(
    ("ending", "status", "says"),
    [
        ("", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("raise OSError('the port is taken')", 1, "OSError: the port is taken"),
        ("threading.Thread(target=consumer.stop, args=(600,), daemon=True).start()", 0, ""),
        (LIKE_LATER_PYTHONS, 0, ""),
    ],
    ids=["returns", "exits", "raises", "while it drains", "without threads"],
)
def test_a_program_that_ends_hands_back_what_still_runs(
    ending: str,
    status: int,
    says: str,
    redis_url: str,
    producer: RedisStreamProducer,
    client: redis.Redis,
    make: Make,
) -> None:
    message_id = producer.publish({"act": FOR_EVER})
    with program(ending, redis_url, drain_seconds=0.2) as ended:
        _, errors = ended.communicate(timeout=40)
        assert ended.returncode == status, errors
        assert says in errors
    assert owners(client) == {"~parked": 1}
    assert client.hlen("{jobs}:workers:holders") == 0
    attempts: list[tuple[str, int]] = []
    make(lambda found, _: attempts.append((found, current_message().attempt))).start()
    eventually(lambda: attempts == [(message_id, 1)])


def test_a_message_may_finish_while_the_program_ends(
    redis_url: str, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"act": "import threading; threading.Event().wait(1)"})
    with program("raise SystemExit", redis_url, drain_seconds=20) as ended:
        assert ended.wait(30) == 0
    assert [result["done"] for result in results(client)] == ["1"]
    assert client.xlen("jobs") == 0


@pytest.mark.parametrize("ending", ["", LIKE_LATER_PYTHONS], ids=["", "without threads"])
def test_ctrl_c_cuts_the_drain_of_a_program_that_ends_short(
    ending: str, redis_url: str, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    producer.publish({"act": f"{UNTIL_IT_DRAINS}\n{FOR_EVER}"})
    with program(ending, redis_url, drain_seconds=600) as ended:
        assert ended.stdout is not None
        assert ended.stdout.readline() == "drains\n"
        ended.send_signal(signal.SIGINT)
        assert ended.wait(20) == 0
    assert owners(client) == {"~parked": 1}


def test_what_fails_because_the_interpreter_exits_is_not_charged(
    redis_url: str, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    """An executor takes no more work then, and this may be long after the drain has begun."""
    submit = "concurrent.futures.ThreadPoolExecutor(1).submit(int).result()"
    act = f"import concurrent.futures\n{submit}\n{UNTIL_IT_DRAINS}\n{submit}"
    producer.publish({"act": act})
    ending = """
    import logging
    from shared_sync.redis_consumer import interruptions
    logging.basicConfig(level=logging.INFO)
    interruptions.MOMENT_SECONDS = -600  # as if the drain had begun long before
    """
    with program(ending, redis_url, drain_seconds=20) as ended:
        _, errors = ended.communicate(timeout=40)
        assert ended.returncode == 0
    # Python 3.10 refuses the executor's module, and later ones what is submitted.
    refusals = ("can't register atexit after shutdown", "cannot schedule new futures")
    assert any(refusal in errors for refusal in refusals)
    assert dead_letters(client) == []
    assert owners(client) == {"~parked": 1}


@pytest.mark.parametrize(("way", "status"), [("return", 0), ("raise", 1)])
def test_a_process_of_multiprocessing_that_ends_hands_back_what_still_runs(
    way: str, status: int, redis_url: str, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    """It ends without what the atexit module has."""
    producer.publish({"n": 1})
    text = textwrap.dedent(IN_A_PROCESS_OF_ITS_OWN)
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", text, redis_url, way],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout == f"{status}\n", ended.stderr
    assert owners(client) == {"~parked": 1}
