"""One worker process of bench_consumer.py: the library, or a loop written by hand with redis-py.

    python benchmarks/opponents.py SPECIFICATION

The specification is a `WorkerSpec` as JSON. The process reports `ready` when its threads run. When
all messages have been run it reports `began` and `ended` (moments on the monotonic clock), `cpu`
(seconds in between) and `latencies`; see `measuring.Worker`.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from worker_reports import GROUP, STREAM, at_end_of_input, write_report

RESULTS = "bench:results"
RESULT = {"text": "done"}
SENT = "sent"
"""The field that has the moment at which a message was published, in ns of the monotonic clock."""


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker is and what it has to do."""

    kind: str
    """`ours`, or the name of a loop in `LOOPS`."""

    url: str = ""
    threads: int = 4
    count: int | str = 100
    """The prefetch of ours, or the COUNT of a loop."""

    messages: int = 0
    """So many are run; with 0 the worker runs until its standard input is closed."""

    job_seconds: float = 0.0
    results: bool = False
    """Each message has a result, which goes to a stream."""

    latencies: bool = False
    block_seconds: float = 0.2
    """How long a loop waits for messages. Ours keeps its default."""

    def command(self, python: str = sys.executable) -> list[str]:
        """The command that starts this worker."""
        return [python, __file__, json.dumps(asdict(self))]


@dataclass
class Jobs:
    """The processor, and what it has noted when all messages are run. Safe from any thread."""

    spec: WorkerSpec
    began: list[tuple[float, float]] = field(default_factory=list)
    """The moment at which the first message began, and the CPU time until then."""

    ended: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def processor(self) -> Callable[[Any, Mapping[Any, Any]], dict[str, str] | None]:
        """Return the function that each worker calls with the id and the fields of a message."""
        began, clock, seconds = self.began, time.monotonic, self.spec.job_seconds
        result = RESULT if self.spec.results else None
        count, messages = itertools.count(1).__next__, self.spec.messages

        def run(_message_id: Any, fields: Mapping[Any, Any]) -> dict[str, str] | None:
            if not began:
                began.append((clock(), time.process_time()))
            if self.spec.latencies:
                sent = fields.get(SENT) or fields[SENT.encode()]
                self.latencies.append((time.monotonic_ns() - int(sent)) / 1e9)
            if seconds:
                time.sleep(seconds)
            if count() == messages:
                self.ended.append(clock())
                self.done.set()
            return result

        return run

    def report(self) -> None:
        """Report, once `done` is set."""
        began, cpu = self.began[0] if self.began else (0.0, 0.0)
        write_report(
            began=began,
            ended=self.ended[0] if self.ended else 0.0,
            cpu=time.process_time() - cpu,
            latencies=self.latencies,
        )


# --- the library --------------------------------------------------------------------------------


def ours(spec: WorkerSpec, jobs: Jobs) -> None:
    """The library with its defaults, except for threads and prefetch, and with metrics."""
    from shared_sync import RedisStreamConsumer, WorkerMetrics  # noqa: PLC0415

    consumer = RedisStreamConsumer(
        spec.url,
        STREAM,
        GROUP,
        "ours",
        logging.getLogger("bench"),
        jobs.processor(),
        metrics=WorkerMetrics("bench"),
        threads=spec.threads,
        prefetch=spec.count,
        binary_fields=("data",),
        result_stream=RESULTS if spec.results else None,
    )
    with consumer:
        write_report(ready=True)
        jobs.done.wait()
        jobs.report()


# --- loops written by hand ----------------------------------------------------------------------


def one_ack_a_read(client: Any, entries: list[Any], run: Any) -> None:
    """The fastest: all messages of a read are acknowledged at once, and nothing is deleted."""
    for message_id, fields in entries:
        run(message_id, fields)
    client.xack(STREAM, GROUP, *[message_id for message_id, _ in entries])


def one_ack_a_message(client: Any, entries: list[Any], run: Any) -> None:
    """The usual one: an XACK for each message, all of a read in one pipeline."""
    pipeline = client.pipeline(transaction=False)
    for message_id, fields in entries:
        run(message_id, fields)
        pipeline.xack(STREAM, GROUP, message_id)
    pipeline.execute()


def ack_and_delete(client: Any, entries: list[Any], run: Any) -> None:
    """The same work as ours: what is done is also deleted, with one XACK and one XDEL a read."""
    ids = []
    for message_id, fields in entries:
        run(message_id, fields)
        ids.append(message_id)
    pipeline = client.pipeline(transaction=False)
    pipeline.xack(STREAM, GROUP, *ids)
    pipeline.xdel(STREAM, *ids)
    pipeline.execute()


def ack_delete_and_add_results(client: Any, entries: list[Any], run: Any) -> None:
    """The same with an XADD for each result, which is published again if the worker dies here."""
    pipeline = client.pipeline(transaction=False)
    ids = []
    for message_id, fields in entries:
        result = run(message_id, fields)
        pipeline.xadd(RESULTS, {"message_id": message_id, "status": "done", **result})
        ids.append(message_id)
    pipeline.xack(STREAM, GROUP, *ids)
    pipeline.xdel(STREAM, *ids)
    pipeline.execute()


LOOPS: dict[str, Callable[[Any, list[Any], Any], None]] = {
    "one XACK a read": one_ack_a_read,
    "one XACK a message": one_ack_a_message,
    "XACK and XDEL": ack_and_delete,
    "XACK, XDEL and XADD": ack_delete_and_add_results,
}
"""What a loop does with the messages of one read. None of them has retries, dead letters, recovery,
metrics, or text instead of bytes."""


def by_hand(spec: WorkerSpec, jobs: Jobs) -> None:
    """A pool of threads, each with a connection and a loop of its own."""
    import redis  # noqa: PLC0415

    settle, run = LOOPS[spec.kind], jobs.processor()
    block_ms = round(spec.block_seconds * 1000)

    def loop(name: str) -> None:
        with redis.Redis.from_url(spec.url, protocol=2) as client:
            while not jobs.done.is_set():
                reply: Any = client.xreadgroup(
                    GROUP, name, {STREAM: ">"}, count=int(spec.count), block=block_ms
                )
                for _, entries in reply:
                    settle(client, entries, run)

    threads = [
        threading.Thread(target=loop, args=(f"hand-{number}",)) for number in range(spec.threads)
    ]
    for thread in threads:
        thread.start()
    write_report(ready=True)
    jobs.done.wait()
    jobs.report()
    for thread in threads:
        thread.join()


def main() -> None:
    spec = WorkerSpec(**json.loads(sys.argv[1]))
    jobs = Jobs(spec)
    at_end_of_input(jobs.done.set)
    (ours if spec.kind == "ours" else by_hand)(spec, jobs)


if __name__ == "__main__":
    main()
