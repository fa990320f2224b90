"""The formats for Prometheus, read back by the parsers of prometheus_client."""

from __future__ import annotations

import math
import random
import sys
from itertools import pairwise
from typing import Any

import pytest
from helpers import Clock
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families
from registries import MEGABYTE, StillResources, registry

from shared_sync.metrics import WorkerMetrics
from shared_sync.metrics.cgroup import ContainerMemory
from shared_sync.metrics.gpu import GpuSample
from shared_sync.metrics.histogram import GAMMA, upper_edge
from shared_sync.metrics.process import ProcessSample
from shared_sync.metrics.prometheus import ROUND_BOUNDS, bounds_at_most


def families(metrics: WorkerMetrics) -> dict[str, Any]:
    """The families of both formats by name; both say the same."""
    plain = list(text_string_to_metric_families(metrics.render_prometheus().decode()))
    opened = list(openmetrics_families(metrics.render_openmetrics().decode()))
    shown = [[samples(family) for family in text] for text in (plain, opened)]
    assert shown[0] == shown[1]
    assert len({family.name for family in opened}) == len(opened)
    return {family.name: family for family in opened}


def samples(family: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Its samples by name and labels; without labels that are empty, as Prometheus sees them."""
    return {
        (sample.name, tuple(sorted((k, v) for k, v in sample.labels.items() if v))): sample.value
        for sample in family.samples
    }


def prometheus(metrics: WorkerMetrics) -> dict[tuple[str, str], float]:
    """All samples, by name and the values of the labels beside `instance_id`, `le` last."""
    shown: dict[tuple[str, str], float] = {}
    for family in families(metrics).values():
        for (name, labels), value in samples(family).items():
            others = dict(labels)
            assert others.pop("instance_id") == metrics.instance_id
            bound = [others.pop("le")] if "le" in others else []
            key = (name, ",".join([*others.values(), *bound]))
            assert key not in shown
            shown[key] = value
    return shown


def test_what_was_recorded_is_read_back(metrics: WorkerMetrics, clock: Clock) -> None:
    metrics.increment_counter("jobs_processed", 3)
    metrics.increment_counter("bytes_total", 10)
    metrics.increment_counter("words", 4, {"language": "en"})
    metrics.increment_counter("words", 1)
    metrics.record_error(ValueError("x"))
    metrics.set_gauge("cache.hit-ratio", 0.5)
    metrics.set_gauge("replicas", 2, {"model": "small", "device": "cpu"})
    for seconds in (0.02, 0.3, 7000.0):
        metrics.record_duration("processing_latency", seconds)
    metrics.record_duration("wait", 0.5, {"language": "en"})
    metrics.record_duration("wait", 5, {"language": "de"})
    clock.now += 60
    shown = prometheus(metrics)
    assert shown["jobs_processed_total", ""] == 3
    assert shown["bytes_total", ""] == 10
    assert (shown["words_total", "en"], shown["words_total", ""]) == (4, 1)
    assert shown["errors_total", "bad_input,ValueError"] == 1
    assert shown["cache_hit_ratio", ""] == 0.5
    assert shown["replicas", "cpu,small"] == 2
    assert shown["processing_latency_seconds_count", ""] == 3
    assert shown["processing_latency_seconds_sum", ""] == pytest.approx(7000.32)
    bounds = ("0.01", "0.025", "0.5", "3600.0", "+Inf")
    assert [shown["processing_latency_seconds_bucket", bound] for bound in bounds] == [
        *(0, 1, 2, 2, 3)
    ]
    assert shown["wait_seconds_count", "en"] == shown["wait_seconds_count", "de"] == 1
    assert shown["wait_seconds_bucket", "en,1.0"] == 1
    assert shown["wait_seconds_bucket", "de,1.0"] == 0
    assert shown["error_rate", ""] == pytest.approx(0.25)


def test_the_process_and_its_machine_are_shown_in_base_units(
    metrics: WorkerMetrics, resources: StillResources, clock: Clock
) -> None:
    resources.become(
        container=ContainerMemory(used_bytes=96 * MEGABYTE, limit_bytes=128 * MEGABYTE),
        gpus=(
            GpuSample(
                *(0, 1024 * MEGABYTE, 4096 * MEGABYTE, 0.5, 61.0),
                uuid="GPU-8932",
                name="NVIDIA A100",
                process_memory_bytes=512 * MEGABYTE,
            ),
            GpuSample(1, None, None, 0.25, None, mig_index=2),
        ),
        source_failures={"process": 0, "gpu": 2},
    )
    clock.now += 60
    shown = prometheus(metrics)
    assert shown["uptime_seconds", ""] == 60
    assert shown["memory_usage_bytes", ""] == 64 * MEGABYTE
    assert shown["memory_limit_bytes", ""] == 128 * MEGABYTE
    assert shown["memory_used_ratio", ""] == 0.75
    assert shown["cpu_seconds_total", ""] == 5.5
    assert shown["open_descriptors", ""] == 9
    assert shown["threads", ""] == 4
    assert shown["gc_collections_total", ""] == 17
    assert shown["interpreter_stall_seconds", ""] == 0.0123
    first, second = "0,NVIDIA A100,GPU-8932", "1:2"
    assert shown["gpu_memory_used_bytes", first] == 1024 * MEGABYTE
    assert shown["gpu_process_memory_used_bytes", first] == 512 * MEGABYTE
    assert shown["gpu_temperature_celsius", first] == 61
    ratios = [shown["gpu_utilization_ratio", gpu] for gpu in (first, second)]
    assert ratios == [0.5, 0.25]
    assert ("gpu_memory_used_bytes", second) not in shown
    assert ("gpu_process_memory_used_bytes", second) not in shown
    assert shown["metrics_source_failures_total", "gpu"] == 2


def test_what_is_not_known_is_left_out(metrics: WorkerMetrics, resources: StillResources) -> None:
    resources.become(process=ProcessSample(None, None, None, None, None), stall_seconds=None)
    metrics.declare_ratio("cache_hit_ratio", "cache_hits", "cache_misses")
    names = {name for name, _ in prometheus(metrics)}
    assert "cpu_seconds_total" not in names
    assert not names & {"memory_usage_bytes", "memory_limit_bytes", "threads", "open_descriptors"}
    assert not names & {"interpreter_stall_seconds", "gpu_utilization_ratio", "cache_hit_ratio"}
    metrics.increment_counter("cache_hits")
    assert prometheus(metrics)["cache_hit_ratio", ""] == 1


def test_types_helps_and_units_are_shown_under_the_namespace(
    clock: Clock, resources: StillResources
) -> None:
    metrics = registry("w", clock, resources, service="stt", namespace="worker")
    metrics.increment_counter("2nd.try")
    metrics.declare("payload", "gauge", "Size of the payload.", unit="megabytes")
    metrics.record_duration("work", 1)
    metrics.record_duration("model_inference_time", 1)
    shown = families(metrics)
    assert shown["worker_2nd_try"].type == shown["worker_errors"].type == "counter"
    assert shown["worker_work_seconds"].type == "histogram"
    assert shown["worker_payload_bytes"].type == "gauge"
    assert shown["worker_payload_bytes"].documentation == "Size of the payload."
    assert shown["worker_payload_bytes"].unit == "bytes"
    assert shown["worker_model_inference_time_seconds"].documentation == "One run of the model."
    assert shown["worker_model_inference_time_seconds"].unit == "seconds"
    assert shown["worker_audio_duration_processed_seconds"].unit == "seconds"
    assert all(name.startswith("worker_") for name in shown)
    assert all(family.documentation for family in shown.values())


@pytest.mark.parametrize(
    ("name", "unit", "shown_as", "factor"),
    [
        ("silence_ms", "", "silence_seconds", 0.001),
        ("model_mb", "", "model_bytes", MEGABYTE),
        ("cpu_share_percent", "", "cpu_share_ratio", 0.01),
        ("silence", "milliseconds", "silence_seconds", 0.001),
        ("payload", "bytes", "payload_bytes", 1),
        ("audio_bytes_held", "bytes", "audio_bytes_held", 1),
        ("audio_bytes_held", "megabytes", "audio_bytes_held", MEGABYTE),
        ("words", "words", "words", 1),
        ("requests_per_ms", "", "requests_per_ms", 1),
        ("speed_words.min", "words_min", "speed_words_min", 1),
    ],
)
def test_numbers_are_turned_into_base_units(
    metrics: WorkerMetrics, name: str, unit: str, shown_as: str, factor: float
) -> None:
    metrics.declare(name, "gauge", "Some.", unit=unit)
    metrics.set_gauge(name, 3)
    metrics.declare(f"more_{name}", "counter", "More.", unit=unit)
    metrics.increment_counter(f"more_{name}", 5)
    shown = prometheus(metrics)
    assert shown[shown_as, ""] == pytest.approx(3 * factor)
    assert shown[f"more_{shown_as}_total", ""] == pytest.approx(5 * factor)


def test_names_that_prometheus_cannot_tell_apart_stay_apart(metrics: WorkerMetrics) -> None:
    metrics.increment_counter("a.b", 1)
    metrics.increment_counter("a-b", 2)
    metrics.increment_counter("3d", 3)
    metrics.increment_counter("sent", 5)
    metrics.increment_counter("sent_total", 6)
    metrics.increment_counter("x.total", 11)
    metrics.set_gauge("x", 12)
    metrics.set_gauge("y_bytes", 13)
    metrics.set_gauge("y.bytes", 14)
    metrics.record_duration("work", 1)
    metrics.set_gauge("work_seconds_count", 8)
    metrics.set_gauge("work_seconds_created", 9)
    metrics.set_gauge("sent_created", 10)
    shown = prometheus(metrics)
    assert shown["a_b_total", ""] == 1
    assert shown["a_b__total", ""] == 2
    assert shown["_3d_total", ""] == 3
    assert (shown["sent_total", ""], shown["sent__total", ""]) == (5, 6)
    assert (shown["x_total", ""], shown["x_", ""]) == (11, 12)
    assert (shown["y_bytes", ""], shown["y_bytes_", ""]) == (13, 14)
    assert (shown["work_seconds_count", ""], shown["work_seconds_count_", ""]) == (1, 8)
    assert (shown["work_seconds_created_", ""], shown["sent_created_", ""]) == (9, 10)


def test_a_gauge_of_ones_own_takes_the_place_of_a_built_in_one(metrics: WorkerMetrics) -> None:
    metrics.set_gauge("threads", 4)
    metrics.set_gauge("memory_usage_mb", 3)
    metrics.set_gauge("error_rate", 0.5)
    shown = prometheus(metrics)
    assert (shown["threads", ""], shown["error_rate", ""]) == (4, 0.5)
    assert shown["memory_usage_bytes", ""] == 3 * MEGABYTE
    assert not [name for name, _ in shown if name.endswith("_")]


def test_numbers_of_any_size_break_no_page(metrics: WorkerMetrics) -> None:
    metrics.set_gauge("model_mb", 10**308)
    metrics.increment_counter("sent", 1e308)
    metrics.increment_counter("sent", 1e308)
    metrics.record_duration("work", 1e15)
    shown = prometheus(metrics)
    assert shown["model_bytes", ""] == shown["sent_total", ""] == sys.float_info.max
    assert shown["work_seconds_sum", ""] == 1e15


def test_no_labels_and_empty_ones_are_different_series(metrics: WorkerMetrics) -> None:
    metrics.increment_counter("sent", 1)
    metrics.increment_counter("sent", 5, {"to": ""})
    shown = prometheus(metrics)
    assert (shown["sent_total", ""], shown["sent_total", "unknown"]) == (1, 5)


def test_half_surrogates_break_no_page(metrics: WorkerMetrics) -> None:
    metrics.declare("sent", "counter", "Sent \ud800.")
    metrics.declare_ratio("share", "yes", "no", "\udfff")
    metrics.increment_counter("yes")
    assert families(metrics)["sent"].documentation == "Sent ?."


def test_a_strange_instance_and_strange_labels_survive(
    clock: Clock, resources: StillResources
) -> None:
    metrics = registry('w"\\\n{}é', clock, resources)
    for value in ('a"b', "back\\slash", "new\nline", "{curly}", "ünï", "a,b"):
        metrics.increment_counter("sent", labels={"to": value})
    assert len([key for key in prometheus(metrics) if key[0] == "sent_total"]) == 6


def test_the_metrics_can_be_registered_as_a_collector(metrics: WorkerMetrics) -> None:
    collectors = CollectorRegistry(auto_describe=True)
    collectors.register(metrics)
    metrics.increment_counter("jobs_processed", 3)
    assert collectors.get_sample_value("jobs_processed_total", {"instance_id": "stt-1"}) == 3


# Buckets


def buckets_of(metrics: WorkerMetrics, name: str) -> list[tuple[float, float]]:
    return [
        (float(sample.labels["le"]), sample.value)
        for sample in families(metrics)[f"{name}_seconds"].samples
        if sample.name == f"{name}_seconds_bucket"
    ]


def test_bounds_rise_are_cumulative_and_end_with_all(metrics: WorkerMetrics) -> None:
    chance = random.Random(5)
    for _ in range(3000):
        metrics.record_duration("work", chance.lognormvariate(-2, 2))
    buckets = buckets_of(metrics, "work")
    assert buckets == sorted(buckets)
    assert [count for _, count in buckets] == sorted(count for _, count in buckets)
    assert buckets[-1] == (math.inf, 3000)
    assert {bound for bound, _ in buckets} >= set(ROUND_BOUNDS)


@pytest.mark.parametrize("ratio", [1.02, 1.05, 1.1, 1.2, 2, 10])
def test_bounds_are_no_further_apart_than_was_asked_for(ratio: float) -> None:
    bounds = bounds_at_most(ratio)
    assert [bound.bucket for bound in bounds] == sorted(bound.bucket for bound in bounds)
    edges = [float(bound.text) for bound in bounds]
    assert edges == sorted(set(edges))
    assert max(after / before for before, after in pairwise(edges)) <= ratio * 1.0001
    assert edges[0] <= 1e-3
    assert edges[-1] >= 3600
    for bound in bounds:
        edge = upper_edge(bound.bucket)
        if float(bound.text) in ROUND_BOUNDS:
            assert edge / GAMMA <= float(bound.text) <= edge
        else:
            assert float(bound.text) == pytest.approx(edge, rel=1e-4)


def test_a_coarser_grid_is_part_of_a_finer_one() -> None:
    grids = [{bound.text for bound in bounds_at_most(ratio)} for ratio in (1.05, 1.1, 1.2, 2)]
    for finer, coarser in pairwise(grids):
        assert len(coarser) < len(finer)
        inside = {text for text in coarser if 1.5e-3 < float(text) < 3000}
        assert inside <= finer


def test_the_bounds_are_the_same_whatever_was_recorded(metrics: WorkerMetrics) -> None:
    metrics.record_duration("wait", 0.0)
    for seconds in (1e-7, 0.003, 3599.0, 1e4):
        metrics.record_duration("work", seconds)
    bounds = [bound for bound, _ in buckets_of(metrics, "work")]
    assert [bound for bound, _ in buckets_of(metrics, "wait")] == bounds


def test_a_duration_that_was_never_recorded_has_no_time_series(metrics: WorkerMetrics) -> None:
    metrics.declare("unused", "duration", "Never recorded.")
    metrics.record_batch(durations={"idle": []})
    metrics.record_batch(durations={"work": []}, labels={"language": "de"})
    metrics.record_duration("work", 1.0, {"language": "en"})
    shown = families(metrics)
    assert not {"unused_seconds", "idle_seconds"} & shown.keys()
    assert {sample.labels["language"] for sample in shown["work_seconds"].samples} == {"en"}
    assert metrics.get_metrics_data()["unused_count"] == 0


def test_series_of_different_durations_add_up_by_their_bounds(metrics: WorkerMetrics) -> None:
    """As `sum by (le)` does; what is not there counts as nothing."""
    chance = random.Random(6)
    everything = []
    for scale in (0.01, 1.0, 30.0):
        for _ in range(2000):
            everything.append(scale * chance.lognormvariate(0, 0.3))
            metrics.record_duration("work", everything[-1], {"size": str(scale)})
    sums: dict[float, float] = {}
    for bound, count in buckets_of(metrics, "work"):
        sums[bound] = sums.get(bound, 0) + count
    everything.sort()
    for bound, count in sums.items():
        exact = sum(seconds <= bound for seconds in everything)
        generous = sum(seconds <= bound * GAMMA * 1.0001 for seconds in everything)
        assert exact - 1 <= count <= generous


def test_the_distance_of_bounds_can_be_chosen(clock: Clock, resources: StillResources) -> None:
    numbers = []
    for options in ({}, {"bound_ratio": 1.05}, {"bound_ratio": 1.2}):
        metrics = registry("w", clock, resources, **options)
        metrics.record_duration("work", 0.01)
        numbers.append(len(buckets_of(metrics, "work")))
    assert numbers == [213, 404, 118]


def test_a_distribution_is_a_histogram_without_a_unit(metrics: WorkerMetrics) -> None:
    for size in (1, 8, 16):
        metrics.record_size("batch_size", size)
    shown = prometheus(metrics)
    assert shown["batch_size_bucket", "1.0"] == 1
    assert shown["batch_size_bucket", "8.0"] == 2
    assert shown["batch_size_bucket", "16.0"] == 3
    assert (shown["batch_size_sum", ""], shown["batch_size_count", ""]) == (25, 3)
    assert "batch_size_seconds" not in families(metrics)
