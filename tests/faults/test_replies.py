"""Results find the process that waits for them, while its connections are cut again and again."""

from __future__ import annotations

import random
import threading
from collections import Counter
from contextlib import ExitStack

import redis
from consumers import GROUP, STREAM, Make
from faults.proxy import Proxy
from helpers import eventually

from shared_sync import RedisStreamProducer, Result, ResultListener
from shared_sync.errors import RedisUnavailable
from shared_sync.redis_producer import JobHandle

JOBS = 300
MEAN_SECONDS_BETWEEN_CUTS = 0.01


class Cuts:
    """Cuts all connections of a proxy at random moments."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.made = 0

    def __enter__(self) -> Cuts:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(random.expovariate(1 / MEAN_SECONDS_BETWEEN_CUTS)):
            self._proxy.cut_all()
            self.made += 1


def test_every_job_that_was_accepted_has_its_own_result_once(
    make: Make, redis_url: str, proxy: Proxy, client: redis.Redis
) -> None:
    received: Counter[str] = Counter()
    accepted: dict[int, JobHandle] = {}
    answered: dict[int, Result] = {}

    def count(result: Result) -> None:
        received[result.entry_id] += 1

    def ask(producer: RedisStreamProducer) -> None:
        for n in range(JOBS):
            try:
                answered[n] = producer.request({"n": n}, timeout=30)
            except RedisUnavailable:  # it may have been published, and nobody waits for it
                continue

    with ExitStack() as stack:
        stack.enter_context(
            make(lambda _, job: {"n": int(job["n"])}, result_stream="results", threads=2)
        )
        stack.enter_context(ResultListener(proxy.url, "results", count))
        producer = stack.enter_context(RedisStreamProducer(proxy.url, STREAM))
        plain = stack.enter_context(RedisStreamProducer(redis_url, STREAM))
        asking = threading.Thread(target=ask, args=(producer,))
        with Cuts(proxy) as cuts:
            asking.start()
            for n in range(JOBS):
                plain.publish({"n": n})
                try:
                    accepted[n] = producer.submit({"n": n})
                except RedisUnavailable:
                    continue
            asking.join(60)
        for n, handle in accepted.items():
            assert handle.result(timeout=20).fields == {"n": n}
        eventually(lambda: client.xpending(STREAM, GROUP)["pending"] == client.xlen(STREAM) == 0)
        eventually(lambda: len(received) == JOBS)
    assert set(received.values()) == {1}
    assert {n: result.fields for n, result in answered.items()} == {n: {"n": n} for n in answered}
    assert cuts.made > 2
    assert len(accepted) > JOBS / 4
    assert len(answered) > JOBS / 4
