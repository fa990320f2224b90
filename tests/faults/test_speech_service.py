"""A speech service whose workers are killed, terminated and restarted, and its Redis too.

A gateway publishes audio of several clients; two speech-to-text workers turn it into texts, a
translation worker translates these. One stream has the results of all clients, and `carry_fields`
says whose each is. Every client gets each of its results once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from faults.durations import LEASE_SECONDS
from helpers import ENVIRONMENT, eventually, start_program

from shared_sync import RedisStreamProducer
from shared_sync.connection.embedded import EmbeddedRedis

PROGRAM = Path(__file__).with_name("speech_worker.py")
SPEECH = Path(__file__).parents[3] / "shared" / "audio"
CLIENTS = [f"client-{n}" for n in range(4)]
CHUNKS = 30


def _recordings() -> list[bytes]:
    """Recorded speech where there is some, and otherwise noise of the same size."""
    recorded = [path.read_bytes() for path in sorted(SPEECH.glob("*.wav"))[:5]]
    return recorded or [hashlib.shake_256(bytes([n])).digest(200_000) for n in range(5)]


class Gateway:
    """Takes audio from clients, and gives each its results."""

    def __init__(self, url: str) -> None:
        self._producer = RedisStreamProducer(url, "audio")
        self._client = redis.Redis.from_url(url, decode_responses=True)
        self._ended = threading.Event()
        self._last_id = "0-0"
        self.received: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        """Of each client the chunks and texts that came back."""
        self.dead: list[dict[str, str]] = []
        self._thread = threading.Thread(target=self._listen)

    def send(self, client_id: str, chunk: int, audio: bytes) -> None:
        """Publish a chunk of audio."""
        encoded = base64.b64encode(audio).decode()
        self._producer.publish({"client_id": client_id, "chunk": chunk, "audio": encoded})

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                reply = self._client.xread({"results": self._last_id}, count=100, block=200)
            except (redis.ConnectionError, redis.TimeoutError):
                self._ended.wait(0.1)
                continue
            for entry_id, fields in reply[0][1] if reply else ():
                self._last_id = entry_id
                if fields["status"] != "done":
                    self.dead.append(fields)
                else:
                    result = (int(fields["chunk"]), fields["text"])
                    self.received[fields["client_id"]].append(result)

    def count(self) -> int:
        return sum(map(len, list(self.received.values())))

    def __enter__(self) -> Gateway:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._producer.close()
        self._client.close()


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


def after(gateway: Gateway, results: int) -> None:
    """Wait until so many results have come back to clients."""
    eventually(lambda: gateway.count() >= results, within=60)


def test_every_client_gets_each_result_once_whatever_happens_to_the_workers(
    own_server: EmbeddedRedis, service: Service
) -> None:
    recordings = _recordings()

    def speak(client_id: str) -> None:
        for chunk in range(CHUNKS):
            gateway.send(client_id, chunk, recordings[chunk % len(recordings)])

    with Gateway(own_server.url) as gateway:
        clients = [threading.Thread(target=speak, args=[client_id]) for client_id in CLIENTS]
        service.start("stt", "stt-1")
        service.start("stt", "stt-2")
        service.start("translation", "translation-1")
        for client in clients:
            client.start()

        after(gateway, 10)
        service.end("stt-1", signal.SIGKILL)
        after(gateway, 25)
        service.start("stt", "stt-1")
        after(gateway, 40)
        assert service.end("stt-2", signal.SIGTERM) == 0
        service.start("stt", "stt-2")
        after(gateway, 55)
        service.end("translation-1", signal.SIGKILL)
        service.start("translation", "translation-1")
        after(gateway, 70)
        for client in clients:  # a publish() whose reply is lost may have published all the same
            client.join()
        own_server.kill()
        own_server.start()

        expected = sorted(
            (chunk, hashlib.sha256(recordings[chunk % len(recordings)]).hexdigest().upper())
            for chunk in range(CHUNKS)
        )
        after(gateway, CHUNKS * len(CLIENTS))
        for name in ("stt-1", "stt-2", "translation-1"):
            assert service.end(name, signal.SIGTERM) == 0
    assert gateway.dead == []
    assert {client_id: sorted(got) for client_id, got in gateway.received.items()} == dict.fromkeys(
        CLIENTS, expected
    )
    with redis.Redis.from_url(own_server.url) as client:
        assert client.xlen("audio") == client.xlen("texts") == 0
        assert client.xlen("results") == CHUNKS * len(CLIENTS)
