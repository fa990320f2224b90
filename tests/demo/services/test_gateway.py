"""The gateway's HTTP interface, on a real Redis and with a worker that says what the test says."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient
from helpers import eventually

from shared_sync import RedisStreamConsumer, RedisStreamProducer, WorkerMetrics, current_message
from shared_sync.demo.services import gateway
from shared_sync.demo.services.gateway import Gateway
from shared_sync.demo.services.http_api import make_app
from shared_sync.demo.services.streams import AUDIO, TEXTS
from shared_sync.demo.services.stt_worker import Transcriber
from shared_sync.demo.speech import DEMO_AUDIO, Audio
from shared_sync.processors import ProcessorContext

WAV = {"Content-Type": "audio/wav"}
SPEECH = (DEMO_AUDIO / "check.wav").read_bytes()
LIMIT = 200_000


@pytest.fixture
def metrics() -> WorkerMetrics:
    return WorkerMetrics("gateway-1", service="gateway")


@pytest.fixture
def http(redis_url: str, metrics: WorkerMetrics) -> Iterator[FlaskClient]:
    with RedisStreamProducer(redis_url, AUDIO, max_queue_depth=2, metrics=metrics) as producer:
        yield make_app(Gateway(producer, metrics), metrics, LIMIT).test_client()


def wav(*, rate: int = 16_000, bits: int = 16, encoding: int = 1, seconds: float = 0.1) -> bytes:
    body = bytes(int(rate * seconds) * bits // 8)
    form = struct.pack("<HHIIHH", encoding, 1, rate, rate * bits // 8, bits // 8, bits)
    chunks = b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


@pytest.mark.parametrize(
    ("body", "headers", "status", "text"),
    [
        (SPEECH, {"Content-Type": "text/plain"}, 415, "Content-Type: audio/wav"),
        (b"ID3 is an mp3", WAV, 415, "ffmpeg -i INPUT -ar 16000"),
        (wav(encoding=3, bits=32), WAV, 415, "only 16-bit PCM"),
        (wav(rate=4_000), WAV, 415, "4000 samples per second"),
        (SPEECH[:-99], WAV, 400, "truncated WAV file"),
        (b"", WAV, 400, "no body"),
        (wav(seconds=0), WAV, 400, "no audio"),
        (wav(rate=8_000, bits=8, seconds=0), WAV, 415, "only 16-bit PCM"),
        (bytes(LIMIT + 1), WAV, 413, "send at most 0.2 MB"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_what_cannot_be_recognized_is_refused_with_a_remedy(
    http: FlaskClient, client: redis.Redis, body: bytes, headers: Any, status: int, text: str
) -> None:
    answer = http.post("/api/jobs", data=body, headers=headers)
    assert (answer.status_code, answer.is_json) == (status, True)
    assert text in answer.get_json()["error"]
    assert client.xlen(AUDIO) == 0


def test_an_hour_of_audio_is_too_much(redis_url: str, metrics: WorkerMetrics) -> None:
    with RedisStreamProducer(redis_url, AUDIO) as producer:
        http = make_app(Gateway(producer, metrics), metrics, 10**7).test_client()
        answer = http.post("/api/jobs", data=wav(rate=8_000, seconds=61), headers=WAV)
    assert (answer.status_code, "at most 60 s" in answer.get_json()["error"]) == (413, True)


def test_a_full_queue_and_an_absent_redis_ask_the_client_to_come_back(
    http: FlaskClient, metrics: WorkerMetrics
) -> None:
    for _ in range(2):
        assert http.post("/api/jobs", data=SPEECH, headers=WAV).status_code == 202
    full = http.post("/api/jobs", data=SPEECH, headers=WAV)
    assert (full.status_code, full.headers["Retry-After"]) == (503, "5")
    with RedisStreamProducer("redis://127.0.0.1:1/0", AUDIO) as producer:
        app = make_app(Gateway(producer, metrics), metrics, LIMIT)
        away = app.test_client().post("/api/jobs", data=SPEECH, headers=WAV)
    assert (away.status_code, away.headers["Retry-After"]) == (503, "2")
    assert "127.0.0.1" not in away.get_data(as_text=True)
    values = metrics.get_metrics_data()
    assert (values["total_errors"], values["audio_bytes_processed"]) == (2, 2 * len(SPEECH))


def test_a_job_is_known_to_whom_it_was_given_and_can_be_cancelled(http: FlaskClient) -> None:
    answer = http.post("/api/jobs", data=SPEECH, headers=WAV)
    job, path = answer.get_json()["job"], answer.headers["Location"]
    known = http.get(path).get_json()
    assert (known["job"], known["state"], known["english"]) == (job, "waiting", "")
    assert len(job) > 20
    odd = http.get(answer.location, query_string={"after": "x", "wait": "nan"})  # as none at all
    assert odd.status_code == 200
    assert http.get("/api/jobs/another").status_code == 404
    assert http.delete("/api/jobs/another").status_code == 404
    assert http.delete(path).status_code == 200


def test_answers_are_safe_in_a_browser(http: FlaskClient) -> None:
    with http.get("/") as page:
        assert page.status_code == 200
        policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "Access-Control-Allow-Origin" not in http.options("/api/jobs").headers
    assert http.get("/static/../http_api.py").status_code == 404
    assert http.get("/nothing").headers["X-Content-Type-Options"] == "nosniff"


def test_when_too_many_wait_the_next_one_is_answered_at_once(
    redis_url: str, metrics: WorkerMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "MOST_WAITING", 1)
    with RedisStreamProducer(redis_url, AUDIO) as producer:
        jobs = Gateway(producer, metrics)
        name = jobs.submit("c1", SPEECH)
        waiting = threading.Thread(target=lambda: jobs.look(name, "", 60))
        waiting.start()
        eventually(lambda: not jobs.places.acquire(blocking=False) or jobs.places.release())
        another = threading.Thread(target=lambda: jobs.look(name, "", 60))
        another.start()
        another.join(30)
        assert not another.is_alive()
        assert waiting.is_alive()
        worker = RedisStreamConsumer(
            redis_url,
            AUDIO,
            "stt-workers",
            None,
            None,
            lambda _, job: {"english": ""},
            binary_fields=("audio",),
        )
        with worker:
            waiting.join(30)
        assert not waiting.is_alive()
        assert jobs.places.acquire(blocking=False)


class Words:
    """A recognizer that hears a word, and then waits for the test or for the end of its job."""

    def __init__(self, go_on: threading.Event) -> None:
        self._go_on = go_on

    def recognize(self, audio: Audio) -> Iterator[tuple[float, str]]:
        yield 0.5, "good"
        cancelled = current_message().cancelled
        while not self._go_on.is_set() and not cancelled.wait(0.02):
            pass
        yield 1.0, "" if audio.seconds < 0.2 else "good morning"


@pytest.fixture
def go_on() -> threading.Event:
    return threading.Event()


@pytest.fixture
def stt(redis_url: str, go_on: threading.Event) -> Iterator[RedisStreamConsumer]:
    """The speech-to-text worker's own processor, in this process."""

    def load(context: ProcessorContext) -> Transcriber:
        made = object.__new__(Transcriber)
        made.metrics, made.recognizer = context.metrics, Words(go_on)
        return made

    with RedisStreamConsumer(
        redis_url,
        AUDIO,
        "stt-workers",
        None,
        None,
        processor_factory=load,
        binary_fields=("audio",),
        threads=2,
    ) as consumer:
        yield consumer
        go_on.set()


def get(http: FlaskClient, path: str, after: str, *states: str) -> Any:
    """What is known of a job once it has one of these states."""
    known: Any = {"version": after, "state": ""}

    def is_there() -> bool:
        known.update(http.get(f"{path}?after={known['version']}&wait=5").get_json())
        return known["state"] in states

    eventually(is_there, within=30)
    return known


@pytest.mark.usefixtures("stt")
def test_every_client_sees_its_own_results_as_they_come(
    http: FlaskClient, go_on: threading.Event, redis_url: str
) -> None:
    mine, silent = (
        http.post("/api/jobs", data=data, headers=WAV | {"X-Client-Id": name}).location
        for name, data in (("c1", SPEECH), ("c2", wav()))
    )
    partial = [get(http, path, "", "transcribing") for path in (mine, silent)]
    assert [known["english"] for known in partial] == ["good", "good"]
    go_on.set()
    heard = get(http, mine, partial[0]["version"], "translating")
    assert (heard["english"], heard["english_is_final"]) == ("good morning", True)
    # Nothing was heard in the other recording, so there is nothing to translate.
    done = get(http, silent, partial[1]["version"], "done")
    assert (done["english"], done["spanish"]) == ("", "")
    with RedisStreamConsumer(
        redis_url,
        TEXTS,
        "translators",
        None,
        None,
        lambda _, job: {"spanish": job["english"].upper()},
        carry_fields=("english",),
    ):
        done = get(http, mine, heard["version"], "done")
    assert (done["english"], done["spanish"]) == ("good morning", "GOOD MORNING")


@pytest.mark.usefixtures("stt")
def test_a_recording_can_be_cancelled_while_it_is_recognized(http: FlaskClient) -> None:
    path = http.post("/api/jobs", data=SPEECH, headers=WAV).location
    known = get(http, path, "", "transcribing")
    http.delete(path)
    assert get(http, path, known["version"], "cancelled")["english"] == "good"
