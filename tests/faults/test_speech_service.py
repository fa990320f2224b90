"""A speech service whose workers are killed, terminated and restarted, and its Redis too.

Gateways publish audio of clients; two speech-to-text workers turn it into texts and hand these on
to a translation worker. Two gateways ask for their results, which come back to them alone; another
one listens to the stream of all results that nobody has asked for. Every client gets each of its
results once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import redis
from faults.durations import LEASE_SECONDS
from faults.speech_worker import AUDIO, RESULTS, TEXTS
from helpers import ENVIRONMENT, eventually, start_program

from shared_sync import RedisStreamProducer, Result, ResultListener
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import RedisUnavailable

PROGRAM = Path(__file__).with_name("speech_worker.py")
SPEECH = Path(__file__).parents[3] / "shared" / "audio"
REPLIES = "{speech}:*:replies:*"
CHUNKS = 40
UNANSWERED = 8
"""How many chunks a client sends before it waits for a result."""


def _recordings() -> list[bytes]:
    """Recorded speech where there is some, and otherwise noise of the same size."""
    recorded = [path.read_bytes() for path in sorted(SPEECH.glob("*.wav"))[:5]]
    return recorded or [hashlib.shake_256(bytes([n])).digest(200_000) for n in range(5)]


class Client:
    """Speaks in chunks, and keeps what comes back."""

    def __init__(self, name: str, recordings: list[bytes]) -> None:
        self.name = name
        self._recordings = recordings
        self._room = threading.Semaphore(UNANSWERED)
        self._lock = threading.Lock()
        self.results: list[Result] = []

    def chunks(self) -> Iterator[dict[str, object]]:
        """Each chunk as a job, as soon as few enough are unanswered."""
        for chunk in range(CHUNKS):
            assert self._room.acquire(timeout=60)
            audio = base64.b64encode(self._recordings[chunk % len(self._recordings)])
            yield {"client_id": self.name, "chunk": chunk, "audio": audio.decode()}

    def receive(self, result: Result) -> None:
        with self._lock:
            self.results.append(result)
        self._room.release()

    def check(self) -> None:
        """Each chunk has come back once, and right."""
        assert {result.status for result in self.results} == {"done"}
        assert sorted(
            (result.fields["chunk"], result.fields["text"]) for result in self.results
        ) == [
            (chunk, hashlib.sha256(audio).hexdigest().upper())
            for chunk in range(CHUNKS)
            for audio in [self._recordings[chunk % len(self._recordings)]]
        ]


def persistently(publish: Callable[[], object]) -> None:
    """Publish with a key, again and again while Redis is away."""
    is_published = False
    while not is_published:
        with suppress(RedisUnavailable):
            publish()
            is_published = True


class Asking:
    """A gateway of one client: each result comes back to it alone."""

    def __init__(self, url: str, client: Client) -> None:
        self._producer = RedisStreamProducer(url, AUDIO)
        self._client = client
        self._waits: list[threading.Thread] = []

    def serve(self) -> None:
        """Send all chunks, and wait for their results."""
        for job in self._client.chunks():
            key = f"{self._client.name}/{job['chunk']}"
            persistently(lambda job=job, key=key: self._ask(job, key))
        for wait in self._waits:
            wait.join()

    def close(self) -> None:
        self._producer.close()

    def _ask(self, job: dict[str, object], key: str) -> None:
        handle = self._producer.submit(job, deduplicate_key=key)
        wait = threading.Thread(target=lambda: self._client.receive(handle.result(timeout=60)))
        wait.start()
        self._waits.append(wait)


class Listening:
    """A gateway of some clients: all results come in one stream."""

    def __init__(self, url: str, clients: list[Client]) -> None:
        self._clients = {client.name: client for client in clients}
        self._producer = RedisStreamProducer(url, AUDIO)
        self._listener = ResultListener(url, RESULTS, self._receive)
        self._listener.start()

    def serve(self, client: Client) -> None:
        for job in client.chunks():
            key = f"{client.name}/{job['chunk']}"
            persistently(lambda job=job, key=key: self._producer.publish(job, deduplicate_key=key))

    def close(self) -> None:
        self._listener.stop()
        self._producer.close()

    def _receive(self, result: Result) -> None:
        self._clients[result.fields["client_id"]].receive(result)


class Service:
    """The worker processes, by name."""

    def __init__(self, stack: ExitStack, url: str, folder: Path) -> None:
        self._stack = stack
        self._url = url
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, role: str, name: str) -> None:
        """Start a worker, or start it anew under the name that it had."""
        given = {"role": role, "url": self._url, "name": name, "lease_seconds": LEASE_SECONDS}
        log = self._stack.enter_context((self._folder / f"{name}.log").open("a"))
        process = start_program(
            [sys.executable, PROGRAM, json.dumps(given)], stderr=log, env=ENVIRONMENT
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        self._processes[name] = process

    def end(self, name: str, number: signal.Signals) -> int:
        """Send a signal to a worker, and return its exit status."""
        process = self._processes[name]
        process.send_signal(number)
        return process.wait(30)

    def logs(self) -> str:
        return "".join(path.read_text() for path in self._folder.glob("*.log"))


@pytest.fixture
def service(own_server: EmbeddedRedis, tmp_path: Path) -> Iterator[Service]:
    with ExitStack() as stack:
        made = Service(stack, own_server.url, tmp_path)
        yield made
        print(made.logs())


def results_written(client: redis.Redis) -> int | None:
    """How many results gateways that ask were ever sent; None where Redis does not count them."""
    streams = [client.xinfo_stream(key) for key in client.keys(REPLIES)]
    added = [stream.get("entries-added") for stream in streams]
    # A stream was made with one entry, which was removed.
    return None if None in added else sum(added) - len(added)


def test_every_client_gets_each_result_once_whatever_happens_to_the_workers(
    own_server: EmbeddedRedis, service: Service
) -> None:
    recordings = _recordings()
    clients = [Client(f"client-{n}", recordings) for n in range(4)]
    asking = [Asking(own_server.url, client) for client in clients[:2]]
    listening = Listening(own_server.url, clients[2:])
    speakers = [
        *(threading.Thread(target=gateway.serve) for gateway in asking),
        *(threading.Thread(target=listening.serve, args=[client]) for client in clients[2:]),
    ]

    def after(results: int) -> None:
        eventually(lambda: sum(len(client.results) for client in clients) >= results, within=60)

    service.start("stt", "stt-1")
    service.start("stt", "stt-2")
    service.start("translation", "translation-1")
    for speaker in speakers:
        speaker.start()
    after(10)
    service.end("stt-1", signal.SIGKILL)
    after(30)
    service.start("stt", "stt-1")
    after(50)
    assert service.end("stt-2", signal.SIGTERM) == 0
    service.start("stt", "stt-2")
    after(70)
    service.end("translation-1", signal.SIGKILL)
    service.start("translation", "translation-1")
    after(90)
    own_server.kill()
    own_server.start()
    after(CHUNKS * len(clients))
    for speaker in speakers:
        speaker.join()
    for name in ("stt-1", "stt-2", "translation-1"):
        assert service.end(name, signal.SIGTERM) == 0
    with redis.Redis.from_url(own_server.url) as client:
        assert results_written(client) in (2 * CHUNKS, None)
        assert client.xlen(AUDIO) == client.xlen(TEXTS) == 0
        assert client.xlen(RESULTS) == 2 * CHUNKS
        for gateway in (*asking, listening):
            gateway.close()
        assert client.keys(REPLIES) == client.keys("{speech}:*:dead") == []
    for one in clients:
        one.check()
