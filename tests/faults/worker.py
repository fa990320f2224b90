"""A worker in a process of its own: it tells of each run, and does what the message asks for.

As a program, it starts such workers for `nursery.py`.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import sys
from pathlib import Path
from typing import Any

from faults import acts
from helpers import Figures

from shared_sync import Batching, RedisStreamConsumer, RetryPolicy
from shared_sync.connection import connection
from shared_sync.errors import ConsumerBroken, ConsumerIdInUse
from shared_sync.redis_consumer import draining, lifecycle

QUICK = {"max_attempts": 3, "base_seconds": 0.05, "max_seconds": 0.1}
NAME_IN_USE = 3
"""The status of a worker whose name another one has."""


def limit_memory(more_bytes: int) -> None:
    """Let this process have so much more address space than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main(url: str, reports_url: str, name: str, report: Path, **options: Any) -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    acts.tell(name, report.parent, reports_url, str(options.pop("acts", "")))
    retry = RetryPolicy(**QUICK | options.pop("retry", {}))
    runs: dict[str, Any] = {"message_processor": acts.process}
    if "batch_size" in options:
        batch = Batching(max_size=options.pop("batch_size"))
        runs = {"batch_processor": acts.process_batch, "batch": batch}
    more_bytes = options.pop("more_bytes", None)
    patience_seconds = options.pop("patience_seconds", connection.REPLY_MARGIN_SECONDS)
    connection.REPLY_MARGIN_SECONDS = patience_seconds
    grace_seconds = options.pop("shutdown_grace_seconds", draining.SHUTDOWN_GRACE_SECONDS)
    lifecycle.SHUTDOWN_GRACE_SECONDS = draining.SHUTDOWN_GRACE_SECONDS = grace_seconds
    figures = Figures()
    consumer = RedisStreamConsumer(
        url,
        "jobs",
        "workers",
        name,
        logging.getLogger(name),
        **runs,
        metrics=figures,
        retry=retry,
        result_stream="results",
        **options,
    )
    if isinstance(more_bytes, int):
        limit_memory(more_bytes)
    told: dict[str, object] = {}
    status = 0
    try:
        told["clean"] = consumer.start_consuming()
    except ConsumerIdInUse as error:
        status = NAME_IN_USE
        told |= {"text": str(error), "host": error.host, "pid": error.pid}
    except ConsumerBroken as error:
        status = error.exit_code
        told |= {"text": str(error)}
    report.write_text(json.dumps({**told, "counters": figures.counters}))
    return status


def become_worker() -> dict[str, Any]:
    """Return in each worker that is to be started, with its arguments.

    This process itself stays and starts the next, as long as somebody may ask for one. A worker is
    the child of a process that ends at once, so the process of the tests becomes its parent.
    """
    gc.freeze()
    for line in sys.stdin:
        given, log = json.loads(line)
        reader, writer = os.pipe()
        between = os.fork()
        if not between:
            worker = os.fork()
            if not worker:
                os.close(reader)
                os.close(writer)
                _redirect(log)
                return dict(given)
            os.write(writer, str(worker).encode())
            os._exit(0)
        os.waitpid(between, 0)
        print(os.read(reader, 20).decode(), flush=True)
        os.close(reader)
        os.close(writer)
    sys.exit()


def _redirect(log: str) -> None:
    """Read nothing, and write to this file."""
    for path, flags, descriptors in (
        (os.devnull, os.O_RDONLY, (0,)),
        (log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, (1, 2)),
    ):
        opened = os.open(path, flags)
        for descriptor in descriptors:
            os.dup2(opened, descriptor)
        os.close(opened)


if __name__ == "__main__":
    given = become_worker()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    sys.exit(main(**given | {"report": Path(given["report"])}))
