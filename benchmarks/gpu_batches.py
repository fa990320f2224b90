"""Batches: a bad message among 32, a batch that does not fit, and what batching gains."""

from __future__ import annotations

from typing import Any

from gpu_bench import RESULTS, Bench
from gpu_processors import LARGEST_BATCH
from report import Bound

SIZE = 32
BAD = 17
JOBS = 400
MODEL_BATCH = 16

ONE_BAD, UNFIT = "1 of 32 is bad", "does not fit above 8"
SINGLE, BATCHED = "20 ms + 1 ms model, single", "20 ms + 1 ms model, batches of 16"
BOUNDS = (
    Bound(f"{ONE_BAD}: results", lambda found: found.median(ONE_BAD, "results"), at_least=31),
    Bound(f"{ONE_BAD}: charged", lambda found: found.highest(ONE_BAD, "charged"), at_most=1),
    Bound(f"{ONE_BAD}: runs", lambda found: found.highest(ONE_BAD, "runs"), at_most=2 * SIZE),
    Bound(f"{UNFIT}: lost", lambda found: found.highest(UNFIT, "lost"), at_most=0),
    Bound(
        f"{UNFIT}: largest of the last ten runs",
        lambda found: found.highest(UNFIT, "last size"),
        at_most=LARGEST_BATCH,
    ),
    Bound(
        f"{UNFIT}: smallest of the last ten runs",
        lambda found: found.median(UNFIT, "last smallest"),
        at_least=LARGEST_BATCH,
    ),
    Bound(
        "model: batches of 16 / single",
        lambda found: found.median(BATCHED, "messages/s") / found.median(SINGLE, "messages/s"),
        at_least=8.0,
    ),
)


def measure_batches(bench: Bench) -> None:
    """Batches in the thread of the reader."""
    runs = _run(bench, "act_in_batches", SIZE, bad=BAD, messages=SIZE)
    bench.measured.add(
        ONE_BAD,
        {
            "results": len(bench.results()),
            "charged": sum(letter.attempts for letter in bench.dead()),
            "runs": len(runs),
        },
    )
    print(f"{ONE_BAD}: sizes of the runs: {' '.join(map(str, runs))}", flush=True)
    jobs = bench.options.jobs
    runs = _run(bench, "small_model_in_batches", SIZE, messages=jobs)
    full = runs[-11:-1]  # the last one has what was left
    bench.measured.add(
        UNFIT,
        {
            "lost": jobs - len({result["message_id"] for result in bench.results()}),
            "runs": len(runs),
            "runs that did not fit": sum(size > LARGEST_BATCH for size in runs),
            "last size": max(full),
            "last smallest": min(full),
        },
    )
    for label, options in (
        (SINGLE, {"message_processor": "gpu_processors:model"}),
        (BATCHED, _batched("model_in_batches", MODEL_BATCH)),
    ):
        bench.publish({"n": n} for n in range(jobs))
        with bench.worker(result_stream=RESULTS, **options) as worker:
            worker.read("ready")
            bench.wait_until_done()
            worker.end_input()
            calls = worker.read("calls")["calls"]
            worker.wait()
        # From the start of the first run to the start of the last, which was not counted then.
        (first, _), (last, left) = calls[0], calls[-1]
        rate = (jobs - left) / (last - first)
        bench.measured.add(label, {"messages/s": rate, "runs": len(calls)})


def _batched(processor: str, size: int) -> dict[str, Any]:
    return {"batch_processor": f"gpu_processors:{processor}", "batch": {"max_size": size}}


def _run(
    bench: Bench, processor: str, size: int, *, messages: int, bad: int | None = None
) -> list[int]:
    """Run messages in batches; return the sizes of all runs."""
    bench.publish({"n": n, **({"do": "raise"} if n == bad else {})} for n in range(messages))
    with bench.worker(
        result_stream=RESULTS, retry={"max_attempts": 1}, **_batched(processor, size)
    ) as worker:
        worker.read("ready")
        bench.wait_until_done()
        worker.end_input()
        sizes = [size for _, size in worker.read("calls")["calls"]]
        worker.wait()
    return sizes
