"""The gateway, the speech-to-text worker and the translation worker, with the real engines."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from helpers import ask, eventually, free_port

pytest.importorskip("pocketsphinx", reason="pip install 'shared_sync[speech]'")
pytest.importorskip("selenium")

from dashboards import Page, chromium, pictures_folder, too_faint
from selenium.webdriver import Keys

from shared_sync import RedisStreamProducer
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.demo.services import programs
from shared_sync.demo.services.apertium import Apertium
from shared_sync.demo.services.programs import HOST, Program
from shared_sync.demo.services.streams import TEXTS
from shared_sync.demo.speech import DEMO_AUDIO, DEMO_GRAMMAR
from shared_sync.errors import WorkerBroken

READ_SPEECH = Path(__file__).parents[4] / "shared" / "audio"
WITHIN = 120.0
"""Seconds for a recording, on a machine that does other things, too."""

NAMES = {
    "gateway": "clients_connected total_clients_served jobs_sent results_received errors "
    "uptime_seconds redis_operations audio_bytes_processed avg_processing_latency_ms",
    "stt_worker": "jobs_processed successful_transcriptions failed_transcriptions "
    "avg_transcription_time_ms model_inference_time_ms audio_duration_processed_seconds "
    "memory_usage_mb error_rate",
    "translation_worker": "jobs_processed successful_translations failed_translations "
    "avg_translation_time_ms text_chars_processed cache_hit_ratio memory_usage_mb error_rate",
}
"""What the users of each service expect in its metrics."""


def recordings() -> dict[Path, str]:
    """What is said in the recordings of read speech; where there are none, in those of the demo."""
    if READ_SPEECH.is_dir():
        table = (READ_SPEECH / "README.md").read_text()
        rows = re.findall(r"^\| (\S+\.wav) \| [\d.]+ \| (.+?) \|$", table, re.M)
        return {READ_SPEECH / name: said for name, said in rows}
    said = json.loads((DEMO_AUDIO / "transcripts.json").read_text())
    return {DEMO_AUDIO / name: words for name, words in said.items()}


RECORDINGS = recordings()
SHORTEST, LATER, *_ = sorted(RECORDINGS, key=lambda path: path.stat().st_size)


def word_errors(said: list[str], heard: list[str]) -> int:
    """The Levenshtein distance in words: the fewest insertions, deletions and replacements."""
    row = list(range(len(heard) + 1))
    for number, word in enumerate(said, 1):
        previous, row[0] = row[0], number
        for column, other in enumerate(heard, 1):
            substituted = previous + (word != other)
            previous = row[column]
            row[column] = min(substituted, row[column] + 1, row[column - 1] + 1)
    return row[-1]


class Service:
    """The three programs, as processes."""

    def __init__(self, stack: ExitStack, redis_url: str) -> None:
        self._stack = stack
        self._redis_url = redis_url
        self.port = free_port()
        self.programs: dict[str, Program] = {}

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/"

    def start(self, name: str, **environment: str) -> None:
        """Start a program, again if it was killed."""
        usual = {"REDIS_URL": self._redis_url, "LEASE_SECONDS": "2", "STT_ENGINE": "pocketsphinx"}
        if not READ_SPEECH.is_dir():
            usual["STT_GRAMMAR"] = str(DEMO_GRAMMAR)
        program = Program(name, free_port(), usual | environment)
        self._stack.callback(program.stop)
        self.programs[name] = program

    def kill(self, name: str) -> None:
        self.programs[name].kill()

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
        return programs.ask(self.port, method, path, body, Content_Type="audio/wav")

    def send(self, path: Path) -> str:
        status, answer = self.ask("POST", "/api/jobs", path.read_bytes())
        assert status == 202, answer
        return str(answer["job"])

    def follow(self, job: str) -> list[dict[str, Any]]:
        """All that the gateway says of a job, as it comes, up to the end."""
        said: list[dict[str, Any]] = []

        def has_ended() -> bool:
            version = said[-1]["version"] if said else ""
            status, known = self.ask("GET", f"/api/jobs/{job}?after={version}&wait=20")
            assert status == 200, known
            said.append(known)
            return known["state"] in ("done", "dead", "expired", "cancelled")

        eventually(has_ended, within=WITHIN)
        return said


@pytest.fixture(scope="module")
def service(redis_server: EmbeddedRedis) -> Iterator[Service]:
    try:
        Apertium()
    except WorkerBroken as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must not skip what needs Apertium: {error}")
        pytest.skip(str(error))
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    with ExitStack() as stack:
        service = Service(stack, redis_server.url)
        service.start("gateway", HOST=HOST, PORT=str(service.port))
        service.start("stt_worker")
        service.start("translation_worker")
        for program in service.programs.values():
            program.wait_until_ready()
        yield service


@pytest.fixture(scope="module")
def page(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page of the gateway, in a browser whose microphone hears a recording."""
    flags = (
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={LATER}",
    )
    with chromium(tmp_path_factory.mktemp("chromium"), pictures_folder(), *flags) as browser:
        browser.open(service.url)
        yield browser
        assert browser.complaints() == []


def test_five_recordings_come_back_in_english_and_spanish_although_a_worker_is_killed(
    service: Service, redis_server: EmbeddedRedis
) -> None:
    jobs = {path: service.send(path) for path in RECORDINGS}
    first = next(iter(jobs.values()))
    service.ask("GET", f"/api/jobs/{first}?after=")  # answers when it has heard something
    service.kill("stt_worker")
    service.start("stt_worker")
    errors = 0
    for path, job in jobs.items():
        *_, last = service.follow(job)
        assert last["state"] == "done", last
        print(f"{path.name}\n  English  {last['english']}\n  Spanish  {last['spanish']}")
        errors += word_errors(RECORDINGS[path].split(), last["english"].split())
        assert last["spanish"]
        assert last["spanish"] != last["english"]
    rate = errors / sum(len(said.split()) for said in RECORDINGS.values())
    print(f"word error rate {rate:.3f}")
    assert rate <= 0.5
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.xlen("{speech}:audio") == client.xlen("{speech}:texts") == 0
        assert not client.keys("*:dead")
    # The recording that was recognized when its worker died was taken over.
    assert ask(f"{service.programs['stt_worker'].url}metrics")[1]["jobs_recovered"] >= 1


def test_english_is_known_before_spanish_and_each_program_counts(service: Service) -> None:
    said = service.follow(service.send(SHORTEST))
    states = list(dict.fromkeys(known["state"] for known in said))
    assert states[-1] == "done"
    assert "transcribing" in states
    partial = [known for known in said if known["state"] == "transcribing"]
    assert any(known["english"] and not known["spanish"] for known in said)
    assert all(not known["english_is_final"] for known in partial)
    for name, program in service.programs.items():
        status, metrics = ask(f"{program.url}metrics")
        assert status == 200
        assert set(NAMES[name].split()) <= set(metrics), name
        assert ask(f"{program.url}health")[1]["status"] == "healthy", name


def test_a_text_that_was_translated_lately_comes_from_the_cache(
    service: Service, redis_server: EmbeddedRedis
) -> None:
    with RedisStreamProducer(redis_server.url, TEXTS) as texts:
        answers = [texts.request({"english": "the house"}, timeout=WITHIN) for _ in range(2)]
    assert [answer.fields["spanish"] for answer in answers] == ["La casa", "La casa"]
    metrics = ask(f"{service.programs['translation_worker'].url}metrics")[1]
    assert metrics["cache_hits"] >= 1
    assert 0 < metrics["cache_hit_ratio"] < 1


def test_the_page_shows_english_and_then_spanish_for_a_file(page: Page) -> None:
    page.find("#file")[0].send_keys(str(SHORTEST))
    page.shows(SHORTEST.name, "#jobs h3")
    page.run(
        """window.seen = [];
        const english = document.querySelector('.english');
        const spanish = document.querySelector('.spanish');
        new MutationObserver(() => seen.push([english.textContent, spanish.textContent]))
          .observe(document.getElementById('jobs'), {subtree: true, childList: true});"""
    )
    page.shows("done", "#jobs .state", within=WITHIN)
    assert page.text("#jobs .english")
    assert page.text("#jobs .spanish")
    texts = page.run("return seen")
    assert any(english and not spanish for english, spanish in texts)
    page.picture("speech-file")
    assert too_faint(page, texts=8) == []


def test_the_page_sends_what_the_microphone_hears(page: Page) -> None:
    page.find("#record")[0].send_keys(Keys.ENTER)
    page.shows("3 s", "#recorded", within=WITHIN)
    assert page.text("#record") == "Stop and send"
    page.picture("speech-recording")
    page.find("#record")[0].send_keys(Keys.ENTER)
    page.shows("Recording of", "#jobs h3")
    page.shows("done", "#jobs li:first-child .state", within=WITHIN)
    heard = page.text("#jobs li:first-child .english")
    assert set(heard.split()) & set(RECORDINGS[LATER].split()), heard
    assert page.text("#jobs li:first-child .spanish")
    page.picture("speech-microphone")


def test_the_page_says_why_a_file_cannot_be_used(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(SHORTEST.read_bytes()[:5000])
    page.find("#file")[0].send_keys(str(broken))
    page.shows("truncated WAV file", "#jobs li:first-child .reason")
    other = tmp_path / "notes.mp3"
    other.write_text("this is no audio")
    page.find("#file")[0].send_keys(str(other))
    page.shows("This browser cannot read notes.mp3 as audio.", "#problem")
    page.complaints()  # the browser itself mentions the answer 400
