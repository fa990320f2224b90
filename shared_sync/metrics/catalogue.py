"""The metrics that the library knows by name: what each one is, and which service has it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal, TypeAlias

from shared_sync.common import queue_metrics

Kind: TypeAlias = Literal["counter", "gauge", "duration", "distribution"]
KINDS: Final[tuple[Kind, ...]] = ("counter", "gauge", "duration", "distribution")


@dataclass(frozen=True, slots=True)
class MetricDescription:
    """What a metric is. `unit` is empty for a plain number, and "seconds" for a duration."""

    name: str
    kind: Kind
    help: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Ratio:
    """`part` / (`part` + `rest`), two counters, over the window."""

    name: str
    part: str
    rest: str
    help: str


def _counter(name: str, text: str, unit: str = "") -> MetricDescription:
    return MetricDescription(name, "counter", text, unit)


def _gauge(name: str, text: str, unit: str = "") -> MetricDescription:
    return MetricDescription(name, "gauge", text, unit)


def _duration(name: str, text: str) -> MetricDescription:
    return MetricDescription(name, "duration", text, "seconds")


_JOBS_PROCESSED = _counter("jobs_processed", "Messages finished with success.")
_PROCESSING_LATENCY = _duration(
    "processing_latency", "From the start of a message's processing to its end."
)
_JOBS_SENT = _counter("jobs_sent", "Jobs published.")
_RESULTS_RECEIVED = _counter("results_received", "Results received.")
_REDIS_OPERATIONS = _counter("redis_operations", "Commands sent to Redis.")

SERVICES: Final[dict[str, tuple[MetricDescription | Ratio, ...]]] = {
    "gateway": (
        _gauge("clients_connected", "Clients connected now."),
        _counter("total_clients_served", "Clients that have been served."),
        _JOBS_SENT,
        _RESULTS_RECEIVED,
        _REDIS_OPERATIONS,
        _counter("audio_bytes_processed", "Audio taken in.", "bytes"),
        _PROCESSING_LATENCY,
    ),
    "stt": (
        _JOBS_PROCESSED,
        _counter("successful_transcriptions", "Transcriptions that gave a text."),
        _counter("failed_transcriptions", "Transcriptions that failed."),
        _duration("transcription_time", "One transcription, with reading the audio."),
        _duration("model_inference_time", "One run of the model."),
        _counter("audio_duration_processed_seconds", "Length of the audio transcribed.", "seconds"),
    ),
    "translation": (
        _JOBS_PROCESSED,
        _counter("successful_translations", "Translations that gave a text."),
        _counter("failed_translations", "Translations that failed."),
        _duration("translation_time", "One translation."),
        _counter("text_chars_processed", "Characters of text translated.", "characters"),
        _counter("cache_hits", "Texts found in the cache."),
        _counter("cache_misses", "Texts not found in the cache."),
        Ratio(
            "cache_hit_ratio",
            "cache_hits",
            "cache_misses",
            "Share of texts found in the cache.",
        ),
    ),
}
"""What `WorkerMetrics(service=...)` declares."""

CONSUMER: Final[tuple[MetricDescription, ...]] = (
    _JOBS_PROCESSED,
    _counter("jobs_failed", "Attempts that failed, those of unusable messages included."),
    _counter("jobs_retried", "Failures that were followed by another attempt."),
    _counter("jobs_dead", "Messages given up on, now dead letters."),
    _counter("jobs_expired", "Messages that expired before they were done."),
    _counter("jobs_cancelled", "Messages that were cancelled before they were done."),
    _counter("jobs_recovered", "Messages taken over from dead workers."),
    _counter(
        "jobs_handed_back", "Messages returned uncharged, most of them without having been started."
    ),
    _counter("worker_faults", "Messages at which this worker was broken."),
    _counter("jobs_lost", "Messages finished here after another worker had taken them over."),
    _counter("jobs_overdue", "Messages that ran past their deadline."),
    _counter(
        "results_unpublished",
        "Results not published: channel refused, or no ids left in the stream.",
    ),
    _counter("replies_dropped", "Results dropped because their reply stream was gone."),
    _counter("progress_sent", "Reports of progress sent."),
    _counter("results_trimmed", "Results deleted by retention."),
    _counter("dead_letters_trimmed", "Dead letters deleted by retention."),
    _counter("lost_bodies", "Messages whose entry was deleted by others."),
    _counter(
        "messages_deleted_unread", "Messages that others deleted before anybody had read them."
    ),
    _counter("groups_recreated", "Times the group was gone and was created anew."),
    _REDIS_OPERATIONS,
    _counter("redis_reconnects", "Connections to Redis made again."),
    _PROCESSING_LATENCY,
    _duration("processor_load", "One loading of a processor: its imports and its factory."),
    _counter("processors_replaced", "Processors that were replaced by new ones."),
    _duration("queue_wait", "From the publishing of a message to the start of its first run."),
    _counter("queue_wait_unknown", "Messages whose id does not say when they were published."),
    MetricDescription(
        "batch_size", "distribution", "Messages in one run of a batch processor.", "messages"
    ),
    _duration("batch_wait", "From the first message of a batch to the start of its run."),
    _counter("batch_extra_runs", "Runs of parts of a batch, after a run of all had failed."),
    _gauge("batch_ceiling", "Most messages that run together; fewer after memory ran out."),
    _gauge("batch_cost_base_seconds", "Learned duration of a run without messages.", "seconds"),
    _gauge("batch_cost_seconds_per_message", "Learned duration that each message of a run adds."),
    *(_gauge(name, text) for name, text in queue_metrics.DESCRIPTIONS.items()),
    _counter("children_crashed", "Child processes that died."),
    _counter("children_overdue", "Child processes ended because their job ran past its deadline."),
    _counter("children_cancelled", "Child processes ended because their job was cancelled."),
    _counter("children_oversized", "Child processes replaced because of their memory."),
    _gauge("children_memory_mb", "Resident memory of all child processes together."),
    _gauge("jobs_unsettled", "Messages finished here that Redis has not confirmed."),
    _gauge("jobs_late", "Messages that run past their budget."),
    _gauge("circuit_breaker_state", "0 if it is closed, 1 if it is half-open, 2 if it is open."),
    _counter("circuit_breaker_openings", "Times a circuit breaker has opened."),
    _counter("circuit_breaker_refused", "Calls that a circuit breaker has refused."),
    _gauge(
        "consumer_paused",
        "1 while no messages are taken: failures in a row, an open circuit breaker, or a pause.",
    ),
    _gauge("group_paused", "1 while somebody has paused the group, so that no messages are taken."),
)
"""What `RedisStreamConsumer` records."""

PRODUCER: Final[tuple[MetricDescription, ...]] = (
    _JOBS_SENT,
    _RESULTS_RECEIVED,
    _duration("job_round_trip", "Time from publishing a job to receiving its result."),
)
"""What `RedisStreamProducer` and `ResultListener` record."""

REJECTED: Final = _counter(
    "metrics_rejected",
    "Values that could not be recorded and were dropped, by the name of their metric.",
)

OWN: Final[tuple[MetricDescription, ...]] = (
    _counter("errors", "Errors by category and type."),
    _counter(
        "metrics_dropped_label_sets",
        'Recordings counted under the label value "other", because there are too many.',
    ),
    REJECTED,
)

KNOWN: Final[dict[str, MetricDescription]] = {
    metric.name: metric
    for metric in chain(*SERVICES.values(), CONSUMER, PRODUCER, OWN)
    if isinstance(metric, MetricDescription)
}
"""All of these metrics by name, whether declared or not."""
