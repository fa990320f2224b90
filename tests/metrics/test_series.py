"""Metrics are declared once, and are shown from then on."""

from __future__ import annotations

import re
from typing import Any

import pytest

from shared_sync.errors import ConfigurationError
from shared_sync.metrics import WorkerMetrics


def test_what_is_declared_is_there_from_the_start_at_zero(metrics: WorkerMetrics) -> None:
    metrics.declare("chunks", "counter", "Chunks of audio.")
    metrics.declare("chunks", "counter", "Chunks of audio.")
    metrics.declare("sessions", "gauge", "Open sessions.")
    metrics.declare("decoding_ms", "duration", "Decoding.")
    metrics.declare("words", "counter", "Words heard.", labels=["language", "accent"])
    metrics.declare("pause", "duration", "Pauses.", labels=["language"])
    metrics.declare("load", "gauge", "Load.", labels=["language"])
    data = metrics.get_metrics_data()
    assert [data[name] for name in ("chunks", "sessions", "decoding_count", "words")] == [0] * 4
    assert (data["avg_decoding_ms"], data["decoding_ms"]) == (None, None)
    assert (data["pause_count"], data["pause_ms"]) == (0, None)
    assert "load" not in data
    metrics.increment_counter("words", labels={"accent": "scots", "language": "en"})
    assert metrics.get_metrics_data()["words{accent=scots,language=en}"] == 1
    with pytest.raises(ConfigurationError, match="'words' has the labels accent, language"):
        metrics.increment_counter("words", labels={"language": "en"})


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("x", "histogram", "X."), "kind must be one of counter, gauge, duration"),
        (("no good", "counter", "X."), "a metric's name is"),
        (("errors", "gauge", "X."), "'errors' is a counter already"),
        (("chunks", "gauge", "Chunks."), "'chunks' is a counter already"),
        (("chunks", "counter", "Pieces."), "'chunks' is declared already, as counter"),
        (("x", "counter", None), "the description of 'x' is a text, not None"),
        (("errors.KeyError", "gauge", "X."), "'errors.KeyError' is a number of errors"),
    ],
)
def test_a_declaration_that_contradicts_is_refused(
    metrics: WorkerMetrics, arguments: Any, complaint: str
) -> None:
    metrics.declare("chunks", "counter", "Chunks.")
    with pytest.raises(ConfigurationError, match=re.escape(complaint)):
        metrics.declare(*arguments)
    with pytest.raises(ConfigurationError, match="labels of 'x' are several names: "):
        metrics.declare("x", "counter", "X.", labels="language")
    with pytest.raises(ConfigurationError, match="the unit of 'x' is a word, such as bytes"):
        metrics.declare("x", "counter", "X.", unit="per cent")


def test_a_service_shows_its_metrics_from_the_start() -> None:
    promised = {
        "gateway": "clients_connected total_clients_served jobs_sent results_received errors "
        "uptime_seconds redis_operations audio_bytes_processed avg_processing_latency_ms",
        "stt": "jobs_processed successful_transcriptions failed_transcriptions "
        "avg_transcription_time_ms model_inference_time_ms audio_duration_processed_seconds",
        "translation": "jobs_processed successful_translations failed_translations "
        "avg_translation_time_ms text_chars_processed cache_hit_ratio",
    }
    for service, names in promised.items():
        data = WorkerMetrics("w", service=service).get_metrics_data()
        for name in (*names.split(), "memory_usage_mb", "error_rate"):
            assert name in data
        counted = [name for name in names.split() if f"{name}_per_second" in data]
        assert counted
        assert all(not data[name] for name in counted)
