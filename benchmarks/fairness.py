"""How long a short job waited behind a long one while another thread was free to run it.

Computed from outside the library, from two records:

- the journal of the processors: for each job its process, its thread, its start and its end;
- the pending list as it was seen every few milliseconds: for each message, who owned it. A message
  that is owned by a process waits in that process from the moment of its delivery, which the
  server reports, until its job starts. One that is owned by nobody alive (handed back, and parked
  for whoever reads next) waits in Redis.

A thread is *free* where it runs no job for at least 20 ms; the gaps in between, in which a thread
settles and reads, are not idleness. A process is *held up* while a thread of it runs a long job.

For each short job, from its first delivery to its start:

- `in_process` is the time that it waits in a process that is held up, while another thread of that
  same process is free;
- `elsewhere` is the time that it waits in a process that is held up, or in Redis after such a wait,
  while a thread of another process is free.

Time spans are summed up for each job, also where they are apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

IDLE_SECONDS = 0.02
"""A shorter gap between two jobs of a thread is not idleness."""

Span = tuple[float, float]


@dataclass(frozen=True)
class Run:
    """A job as the journal has it; moments on the monotonic clock."""

    message: str
    process: str
    thread: str
    began: float
    ended: float
    long: bool


@dataclass(frozen=True)
class Owned:
    """Who had a message, from when until when."""

    owner: str
    span: Span


@dataclass(frozen=True)
class Waits:
    """The longest waits of all short jobs, in seconds, and whose they were."""

    in_process: float = 0.0
    in_process_message: str = ""
    elsewhere: float = 0.0
    elsewhere_message: str = ""


def longest_waits(
    runs: Sequence[Run], owners: Mapping[str, Sequence[Owned]], *, threads: int
) -> Waits:
    """Return the longest waits. Each process has so many threads, some of which may never run."""
    processes = {run.process for run in runs}
    free = {name: free_spans(runs, name, threads) for name in processes}
    held_up = {name: long_spans(runs, name) for name in processes}
    own: dict[str, float] = {}
    other: dict[str, float] = {}
    for run in runs:
        if run.long:
            continue
        in_process: list[Span] = []
        elsewhere: list[Span] = []
        was_held_up = False
        for owned in owners.get(run.message, ()):
            waiting = [(owned.span[0], min(owned.span[1], run.began))]
            if owned.owner in processes:
                behind = intersection(waiting, held_up[owned.owner])
                was_held_up = was_held_up or total(behind) > 0
                in_process += intersection(behind, free[owned.owner])
            else:
                behind = waiting if was_held_up else []
            others = union(span for name in processes - {owned.owner} for span in free[name])
            elsewhere += intersection(behind, others)
        own[run.message] = max(own.get(run.message, 0.0), total(in_process))
        other[run.message] = max(other.get(run.message, 0.0), total(elsewhere))
    longest_own = max(own, key=own.__getitem__, default="")
    longest_other = max(other, key=other.__getitem__, default="")
    return Waits(
        own.get(longest_own, 0.0), longest_own, other.get(longest_other, 0.0), longest_other
    )


def free_spans(runs: Iterable[Run], process: str, threads: int) -> list[Span]:
    """Return when at least one thread of a process was free, from the first run to the last."""
    runs = list(runs)
    begin, end = min(run.began for run in runs), max(run.ended for run in runs)
    busy: defaultdict[str, list[Span]] = defaultdict(list)
    for run in runs:
        if run.process == process:
            busy[run.thread].append((run.began, run.ended))
    free: list[Span] = [(begin, end)] * (len(busy) < threads)
    for spans in busy.values():
        edges = [begin, *(moment for span in sorted(spans) for moment in span), end]
        free += zip(edges[::2], edges[1::2], strict=True)
    return union(span for span in free if span[1] - span[0] >= IDLE_SECONDS)


def long_spans(runs: Iterable[Run], process: str) -> list[Span]:
    """Return when a process ran at least one long job."""
    return union((run.began, run.ended) for run in runs if run.long and run.process == process)


# --- sets of time spans -------------------------------------------------------------------------


def union(spans: Iterable[Span]) -> list[Span]:
    """Return the moments that are in any span, as spans in order that do not overlap."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        if begin >= end:
            continue
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((begin, end))
    return found


def intersection(some: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """Return the moments that are in a span of both."""
    others = list(others)
    return union((max(begin, from_), min(end, to)) for begin, end in some for from_, to in others)


def total(spans: Iterable[Span]) -> float:
    return sum(end - begin for begin, end in union(spans))
