"""A worker that is written with a plain client, as in another language."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import redis
from producers import STREAM

Answer = Callable[[dict[bytes, bytes]], list[dict[str, str]]]


class PlainWorker:
    """A worker that is written with a plain client, as in another language."""

    def __init__(self, url: str, answer: Answer) -> None:
        self._url = url
        self._answer = answer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.dropped = 0

    def __enter__(self) -> PlainWorker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)

    def _run(self) -> None:
        last = "0"
        with redis.Redis.from_url(self._url, protocol=2) as client:
            while not self._stop.is_set():
                for _, entries in client.xread({STREAM: last}, block=50):
                    for entry_id, fields in entries:
                        last = entry_id
                        self._reply(client, entry_id, fields)

    def _reply(self, client: redis.Redis, entry_id: bytes, fields: dict[bytes, bytes]) -> None:
        options = json.loads(fields[b"shared_sync.options"])
        for answer in self._answer(fields):
            result = {"message_id": entry_id, "status": "done", **answer}
            if client.xadd(options["reply_to"], result, nomkstream=True) is None:
                self.dropped += 1


def double(fields: dict[bytes, bytes]) -> list[dict[str, str]]:
    types = json.dumps({"json": ["twice"]})
    return [{"twice": str(2 * int(fields[b"n"])), "shared_sync.types": types}]


def reply_streams(client: redis.Redis) -> list[bytes]:
    """The reply streams that exist."""
    return client.keys("{jobs}:replies:*")
