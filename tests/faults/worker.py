"""A worker in a process of its own: it tells of each run, and does what the message asks for.

`acts` of a message says what to do in each of its attempts, the last for all that follow: `exit /
wait go, fail` ends the process in the first attempt; in the second it waits until there is a file
`go`, and fails.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import redis
from helpers import Figures

from shared_sync import RedisStreamConsumer, Reject, RetryPolicy, current_message
from shared_sync.connection import connection
from shared_sync.errors import ConsumerIdInUse
from shared_sync.redis_consumer import lifecycle, pool

Job = Mapping[str, str | bytes]
QUICK = RetryPolicy(max_attempts=3, base_seconds=0.05, max_seconds=0.1)
NAME_IN_USE = 3
"""The status of a worker whose name another one has."""


def perform(act: str, folder: Path) -> None:
    """Do one act."""
    verb, _, what = act.strip().partition(" ")
    if verb == "sleep":
        threading.Event().wait(float(what))
    elif verb == "wait":
        while not (folder / what).exists():
            threading.Event().wait(0.01)
    elif verb == "fail":
        raise ValueError("as asked for")
    elif verb == "reject":
        raise Reject("as asked for")
    elif verb == "exit":
        os._exit(1)
    elif verb == "segfault":
        signal.raise_signal(signal.SIGSEGV)
    elif verb == "hoard":
        hoard: tuple[object, ...] = ()
        while True:
            hoard = (hoard,)
    else:
        assert not verb, f"no act: {act}"


def processor(
    name: str, folder: Path, reports: redis.Redis, acts_by_default: str
) -> Callable[[str, Job], object]:
    def process(message_id: str, job: Job) -> object:
        attempt = current_message().attempt
        run = {"message": message_id, "worker": name, "pid": os.getpid(), "attempt": attempt}
        reports.xadd("runs", run)
        attempts = str(job.get("acts", acts_by_default)).split("/")
        try:
            for act in attempts[min(attempt, len(attempts)) - 1].split(","):
                perform(act, folder)
        except MemoryError:
            raise
        except Exception:
            reports.xadd("runs", {"failed": message_id})
            raise
        return {"number": job["number"], "worker": name, "attempt": attempt}

    return process


def limit_memory(more_bytes: int) -> None:
    """Let this process have so much more address space than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main(url: str, reports_url: str, name: str, report: Path, **options: object) -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    reports = redis.Redis.from_url(reports_url)
    acts_by_default = str(options.pop("acts", ""))
    more_bytes = options.pop("more_bytes", None)
    patience_seconds = options.pop("patience_seconds", connection.REPLY_MARGIN_SECONDS)
    connection.REPLY_MARGIN_SECONDS = patience_seconds
    grace_seconds = options.pop("shutdown_grace_seconds", pool.SHUTDOWN_GRACE_SECONDS)
    lifecycle.SHUTDOWN_GRACE_SECONDS = pool.SHUTDOWN_GRACE_SECONDS = grace_seconds
    figures = Figures()
    consumer = RedisStreamConsumer(
        url,
        "jobs",
        "workers",
        name,
        logging.getLogger(name),
        processor(name, report.parent, reports, acts_by_default),
        metrics=figures,
        retry=QUICK,
        result_stream="results",
        **options,
    )
    if isinstance(more_bytes, int):
        limit_memory(more_bytes)
    told: dict[str, object] = {}
    try:
        told["clean"] = consumer.start_consuming()
    except ConsumerIdInUse as error:
        told |= {"text": str(error), "host": error.host, "pid": error.pid}
    report.write_text(json.dumps({**told, "counters": figures.counters}))
    return 0 if "clean" in told else NAME_IN_USE


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    given = json.loads(sys.argv[1])
    sys.exit(main(**given | {"report": Path(given["report"])}))
