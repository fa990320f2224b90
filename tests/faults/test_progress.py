"""The progress that a caller receives while a worker is frozen or killed."""

from __future__ import annotations

import redis
from consumers import results
from faults.crew import BOTH, Crew
from helpers import eventually
from protocol_client import GroupAdmin

from shared_sync import RedisStreamProducer

OFTEN = {"progress_per_second": 1000, "lease_seconds": 1.0}


def progress_of(client: redis.Redis, worker: str) -> list[float]:
    """What this worker has reported, in the order in which it has arrived."""
    return [
        float(one["progress"])
        for one in results(client)
        if one["status"] == "progress" and one["worker"] == worker
    ]


@BOTH
def test_nothing_of_a_frozen_worker_arrives_once_its_heir_has_begun(
    crew: Crew, producer: RedisStreamProducer, client: redis.Redis, admin: GroupAdmin
) -> None:
    producer.publish({"number": 0, "acts": "report stop, fail/report finish"})
    old = crew.start("old", **OFTEN)
    eventually(lambda: len(progress_of(client, "old")) >= 3)
    old.freeze()
    admin.end_lease("old")
    crew.start("heir", **OFTEN)
    eventually(lambda: len(progress_of(client, "heir")) >= 3)
    old.thaw()
    crew.let("stop")
    old.says("does not count")
    crew.let("finish")
    eventually(lambda: results(client)[-1]["status"] == "done")
    *progress, last = results(client)
    workers = [one["worker"] for one in progress]
    begun = workers.index("heir")
    assert set(workers[:begun]) == {"old"}
    assert set(workers[begun:]) == {"heir"}
    assert last["worker"] == "heir"
    for worker in ("old", "heir"):
        reported = progress_of(client, worker)
        assert reported == sorted(set(reported))
    assert float(progress[begun]["resumed"]) == progress_of(client, "old")[-1]


def test_the_next_worker_continues_from_the_last_progress_of_a_killed_worker(
    crew: Crew, producer: RedisStreamProducer, client: redis.Redis, admin: GroupAdmin
) -> None:
    producer.publish({"number": 0, "acts": "report never/report finish"})
    victim = crew.start("victim", **OFTEN)
    eventually(lambda: len(progress_of(client, "victim")) >= 3)
    victim.kill()
    admin.end_lease("victim")
    crew.let("finish")
    crew.start("heir")
    eventually(lambda: results(client)[-1]["status"] == "done")
    *before, first = [one for one in results(client) if one["status"] == "progress"]
    assert {one["worker"] for one in before} == {"victim"}
    assert float(first["resumed"]) == float(before[-1]["progress"])
    assert client.exists("{jobs}:workers:progress") == 0
