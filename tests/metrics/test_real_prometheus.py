"""A real Prometheus scrapes a running worker, and says what the worker's JSON says."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from helpers import ask, eventually, free_port, start_program
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from shared_sync import RedisStreamProducer, WorkerMetrics
from shared_sync.common.queue_metrics import DESCRIPTIONS
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.metrics.catalogue import CONSUMER, SERVICES, MetricDescription
from shared_sync.metrics.gpu import GpuSample
from shared_sync.metrics.process import ProcessSample

WORKER = Path(__file__).parents[1] / "scraped_worker.py"
CONFIGURATION = """
global:
  scrape_interval: 1s
scrape_configs:
  - job_name: workers
    static_configs:
      - targets: ["127.0.0.1:{port}"]
"""
NUMBER = 5000  # of the durations of each distribution
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def tool(name: str) -> str:
    """The path of one of Prometheus's programs."""
    path = shutil.which(name)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"no {name} here, and CI must not skip what needs it")
        pytest.skip(f"no {name} on PATH")
    return path


# --- a worker and the Prometheus that watches it ----------------------------------------------


def durations() -> dict[tuple[str, str], list[float]]:
    """What the worker records: lengths in seconds by the name of the duration and a language."""
    chance = random.Random(8)

    def hits_and_misses() -> float:
        return chance.gauss(0.05, 0.003) if chance.random() < 0.7 else chance.gauss(2, 0.1)

    return {
        ("lognormal", ""): [chance.lognormvariate(-1, 0.6) for _ in range(NUMBER)],
        ("bimodal", ""): [hits_and_misses() for _ in range(NUMBER)],
        ("constant", ""): [0.123] * NUMBER,
        ("heavy_tailed", ""): [0.01 * chance.paretovariate(1.2) for _ in range(NUMBER)],
        ("by_language", "en"): [chance.lognormvariate(-1, 0.6) for _ in range(NUMBER)],
        ("by_language", "de"): [chance.lognormvariate(1, 0.4) for _ in range(NUMBER)],
        ("by_language", 'a "quoted"\\\nline'): [7.5] * NUMBER,
    }


def calls() -> Iterator[dict[str, str]]:
    """All that the worker records, as the messages that make it do so."""

    def call(method: str, **arguments: Any) -> dict[str, str]:
        return {"method": method, "arguments": json.dumps(arguments)}

    for (name, language), seconds in durations().items():
        labels = {"language": language} if language else None
        yield call("record_batch", durations={name: seconds}, labels=labels)
    for language, size in (("en", 1000), ("de", 500), ("en", 24), ("fr", 1)):
        yield call(
            "increment_counter", name="audio_read", value=size, labels={"language": language}
        )
    yield call("increment_counter", name="audio_duration_processed_seconds", value=12.75)
    yield call("increment_counter", name="errors.ValueError", value=3)
    yield call("set_gauge", name="model_memory", value=1.5)
    yield call("set_gauge", name="temperature", value=-4.25)


class Scraped:
    """A worker that has recorded everything, and the Prometheus that has scraped that."""

    def __init__(self, json_url: str, prometheus_url: str, log: Path) -> None:
        self._json_url = json_url
        self._prometheus_url = prometheus_url
        self.log = log  # of Prometheus: its warnings and errors

    def json(self) -> dict[str, Any]:
        """The metrics that the worker itself shows."""
        return ask(f"{self._json_url}/metrics")[1]

    def api(self, path: str, **parameters: str) -> Any:
        """The data of an answer of Prometheus's HTTP API."""
        url = f"{self._prometheus_url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        status, answer = ask(url)
        assert (status, answer["status"]) == (200, "success"), answer
        assert not answer.get("warnings")
        return answer["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The labels and the value of each series that the expression has now."""
        rows = self.api("query", query=expression)["result"]
        return [(row["metric"], float(row["value"][1])) for row in rows]

    def value(self, expression: str) -> float:
        """The value of the only series that the expression has."""
        ((_, value),) = self.query(expression)
        return value

    def by(self, label: str, expression: str) -> dict[str, float]:
        """The values by a label of each series."""
        return {labels[label]: value for labels, value in self.query(expression)}


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return bool(answer.status == 200)
    except urllib.error.URLError:  # also where it answers that it is not ready yet
        return False


@contextmanager
def program(log: Path, *command: str) -> Iterator[None]:
    """A program as long as it is needed; it must end at SIGTERM, with exit status 0."""
    with log.open("wb") as output:
        process = start_program(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def scraped(
    redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scraped]:
    folder = tmp_path_factory.mktemp("prometheus")
    prometheus = tool("prometheus")
    worker_port, json_port, port = free_port(), free_port(), free_port()
    it = Scraped(
        f"http://127.0.0.1:{json_port}", f"http://127.0.0.1:{port}", folder / "prometheus.log"
    )
    (folder / "prometheus.yml").write_text(CONFIGURATION.format(port=worker_port))
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    with RedisStreamProducer(redis_server.url, "calls") as producer:
        jobs = len(producer.publish_many(calls()))
    with ExitStack() as running:
        arguments = (str(WORKER), redis_server.url, str(worker_port), str(json_port))
        running.enter_context(program(folder / "worker.log", sys.executable, *arguments))
        running.enter_context(
            program(
                it.log,
                prometheus,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            )
        )
        eventually(lambda: answers(f"http://127.0.0.1:{json_port}/health"))
        eventually(lambda: it.json()["jobs_processed"] == jobs)
        eventually(lambda: answers(f"http://127.0.0.1:{port}/-/ready"))
        eventually(lambda: it.query(f"speech_jobs_processed_total == {jobs}"))
        yield it


def test_the_target_is_up_and_nothing_it_says_is_refused(scraped: Scraped) -> None:
    (target,) = scraped.api("targets", state="active")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert scraped.value("up") == 1
    assert scraped.value("scrape_samples_scraped") > 100
    assert scraped.log.read_text() == ""


def test_every_counter_is_that_of_the_json(scraped: Scraped) -> None:
    shown = scraped.json()
    names = {name for name in shown if f"{name}_per_second" in shown}
    names -= {"errors", "metrics_rejected", "redis_operations"}
    assert names >= {metric.name for metric in SERVICES["stt"] if metric.kind == "counter"}
    for name in names:
        counter = f"speech_{name}" + ("_bytes_total" if name == "audio_read" else "_total")
        assert scraped.value(f"sum({counter})") == shown[name], name
    assert scraped.value("speech_audio_duration_processed_seconds_total") == 12.75
    # This one goes on growing. What was scraped is not ahead of what is read later.
    seen = scraped.value("speech_redis_operations_total")
    assert 0 < seen <= scraped.json()["redis_operations"]


def test_errors_are_counted_by_type(scraped: Scraped) -> None:
    assert scraped.by("type", "speech_errors_total") == scraped.json()["errors"]
    assert scraped.value('speech_errors_total{type="ValueError"}') == 3


def test_parts_of_a_counter_add_up_by_label(scraped: Scraped) -> None:
    shown = scraped.json()
    parts = scraped.by("language", "sum by (language) (speech_audio_read_bytes_total)")
    assert parts == {"en": 1024, "de": 500, "fr": 1}
    assert parts == {name: shown[f"audio_read{{language={name}}}"] for name in parts}


def test_gauges_are_those_of_the_json_in_base_units(scraped: Scraped) -> None:
    shown = scraped.json()
    assert scraped.value("speech_temperature") == shown["temperature"] == -4.25
    assert scraped.value("speech_model_memory_bytes") == shown["model_memory"] * 1024**2
    eventually(lambda: scraped.value("speech_queue_depth") == scraped.json()["queue_depth"] == 0)


def test_the_sizes_of_a_queue_say_of_which_one(scraped: Scraped) -> None:
    """All workers of a group export the same ones, so that they must not be added up."""
    ((labels, _),) = scraped.query("max by (stream, group) (speech_queue_depth)")
    assert labels == {"stream": "calls", "group": "stt-workers"}
    for name in DESCRIPTIONS:
        assert f"{name}{{group=stt-workers,stream=calls}}" not in scraped.json()


@pytest.mark.parametrize(
    ("name", "language"),
    [
        pytest.param(name, language, id=f"{name}-{number}")
        for number, (name, language) in enumerate(durations())
    ],
)
def test_quantiles_of_the_buckets_are_those_of_the_json_within_ten_percent(
    scraped: Scraped, name: str, language: str
) -> None:
    shown = scraped.json()
    label = json.dumps(language) if '"' in language else language
    suffix = f"{{language={label}}}" if language else ""
    matcher = f"{{language={json.dumps(language)}}}" if language else ""
    for key, share in SHARES.items():
        buckets = f"speech_{name}_seconds_bucket{matcher}"
        there = scraped.value(f"histogram_quantile({share}, {buckets})")
        here = shown[f"{key}_{name}_ms{suffix}"] / 1000
        assert there == pytest.approx(here, rel=0.1), key


@pytest.mark.parametrize("name", ["lognormal", "bimodal", "constant", "heavy_tailed"])
def test_workers_with_other_bounds_can_be_added_up(scraped: Scraped, name: str) -> None:
    """As during an upgrade from a release that had more of them."""
    shown = scraped.json()
    both = f'{{__name__=~"(speech|earlier)_{name}_seconds_bucket"}}'
    for key, share in SHARES.items():
        there = scraped.value(f"histogram_quantile({share}, sum by (le) ({both}))")
        assert there == pytest.approx(shown[f"{key}_{name}_ms"] / 1000, rel=0.1), key


def test_quantiles_of_parts_that_are_added_up_are_those_of_the_whole(scraped: Scraped) -> None:
    """Although some of the parts lie far from the others, as the durations of workers may."""
    shown = scraped.json()
    for key, share in SHARES.items():
        added = "sum by (le) (speech_by_language_seconds_bucket)"
        there = scraped.value(f"histogram_quantile({share}, {added})")
        here = shown[f"{key}_by_language_ms"] / 1000
        assert there == pytest.approx(here, rel=0.1), key


def test_numbers_and_sums_of_durations_are_exact(scraped: Scraped) -> None:
    for (name, language), seconds in durations().items():
        matcher = f"{{language={json.dumps(language)}}}" if language else ""
        assert scraped.value(f"speech_{name}_seconds_count{matcher}") == NUMBER
        total = scraped.value(f"speech_{name}_seconds_sum{matcher}")
        assert total == pytest.approx(sum(seconds))


def test_help_and_unit_of_a_metric_are_known(scraped: Scraped) -> None:
    """Units are in OpenMetrics alone, so it is that which the two have agreed on."""
    for metric, kind, text, unit in (
        ("jobs_processed", "counter", "Messages finished with success.", ""),
        ("audio_read_bytes", "counter", "Audio read.", "bytes"),
        ("model_memory_bytes", "gauge", "Memory of the model.", "bytes"),
        ("bimodal_seconds", "histogram", "Hits and misses.", "seconds"),
    ):
        name = f"speech_{metric}"
        assert scraped.api("metadata", metric=name) == {
            name: [{"type": kind, "help": text, "unit": unit}]
        }


# --- what is written --------------------------------------------------------------------------


class FullMachine:
    """Stands in for the resources of a container with a GPU, all of whose values are known."""

    def start(self) -> None: ...

    def sample(self) -> SimpleNamespace:
        gpu = GpuSample(
            index=0,
            uuid="GPU-8932",
            name="NVIDIA A100",
            process_memory_bytes=2**29,
            memory_used_bytes=2**30,
            memory_total_bytes=2**34,
            utilization_ratio=0.25,
            temperature_celsius=61.0,
        )
        return SimpleNamespace(
            process=ProcessSample(
                memory_bytes=2**26,
                cpu_percent=12.5,
                cpu_seconds=5.5,
                open_descriptors=9,
                threads=4,
            ),
            container=SimpleNamespace(limit_bytes=2**32, used_ratio=0.125),
            gpus=(gpu,),
            gc_collections=7,
            stall_seconds=0.01,
            source_failures={"process": 0, "container": 0, "gpu": 1},
        )


def with_everything(namespace: str) -> WorkerMetrics:
    """Every metric of every service and of the consumer, and one of each kind of a program."""
    metrics = WorkerMetrics(
        "stt-1",
        service="translation",
        namespace=namespace,
        resources=FullMachine(),  # type: ignore[arg-type]
    )
    for about in (*(about for service in SERVICES.values() for about in service), *CONSUMER):
        if isinstance(about, MetricDescription):
            metrics.declare(about.name, about.kind, about.help, unit=about.unit)
    for error in (ValueError, TimeoutError, ConnectionError):
        metrics.record_error(error("a text"))
    metrics.declare("never_used", "counter", "Shown without a part.", labels=["language"])
    metrics.declare("odd_help", "gauge", 'A "quoted" back\\slash,\nand a second line.')
    for language in ("en", "", "日本語", 'a "quoted" \\ line\nand another', "{x=y},"):
        labels = {"language": language, "model": "a"}
        metrics.record_batch(
            counters={"audio_read": 1.5},
            durations={"by_language": [0.1, 0.2, 70.0]},
            gauges={"loaded": 1},
            labels=labels,
        )
    for number, unit in enumerate(("ms", "megabytes", "percent", "bytes", "seconds", "words")):
        metrics.declare(f"used_{number}", "counter", f"Used, in {unit}.", unit=unit)
        metrics.declare(f"free_{number}", "gauge", f"Free, in {unit}.", unit=unit)
        metrics.record_batch(counters={f"used_{number}": 3}, gauges={f"free_{number}": 1e-9})
    for name in ("delay_ms", "delay_milliseconds", "cache_mb", "cache_megabytes", "load_percent"):
        metrics.set_gauge(f"spoken_{name}", 1.5)
    metrics.declare_ratio("success", "jobs_processed", "jobs_failed")
    metrics.increment_counter("jobs_processed", 3)
    for seconds in (0.0, 1e-9, 0.123, 5000.0, 1e9):
        metrics.record_duration("wide", seconds)
    metrics.set_gauge("largest", -1e308)
    return metrics


@pytest.mark.parametrize("namespace", ["", "speech"])
def test_promtool_has_nothing_to_say(namespace: str) -> None:
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"],
        input=with_everything(namespace).render_prometheus(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_both_formats_are_read_back_as_what_was_yielded() -> None:
    metrics = with_everything("speech")
    yielded = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in metrics.collect()
        for sample in family.samples
    }
    for families in (
        text_string_to_metric_families(metrics.render_prometheus().decode()),
        openmetrics_parser.text_string_to_metric_families(metrics.render_openmetrics().decode()),
    ):
        read = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }
        assert read.keys() == yielded.keys()
        young = ("speech_uptime_seconds", frozenset({("instance_id", "stt-1")}))
        assert read.pop(young) >= yielded[young]
        assert read == {key: value for key, value in yielded.items() if key != young}


def test_openmetrics_has_type_help_and_unit_of_every_family() -> None:
    text = with_everything("speech").render_openmetrics().decode()
    families = list(openmetrics_parser.text_string_to_metric_families(text))
    assert len(families) > 60
    for family in families:
        assert family.type in {"counter", "gauge", "histogram"}
        assert family.documentation
        assert not family.unit or family.name.endswith(f"_{family.unit}")
        if family.type == "histogram":
            assert family.unit == "seconds"
