"""docs/jobs.md: a client that knows nothing of this library does what the page tells it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from helpers import eventually

from shared_sync import RedisStreamConsumer, current_message

PAGE = (Path(__file__).parents[1] / "docs" / "jobs.md").read_text()
REPLIES = "{audio:jobs}:replies:ab12"


def commands(section: str) -> list[list[str]]:
    """The commands of a paragraph of the page that begins with this text, and of its examples."""
    text = PAGE[PAGE.index(f"**{section}") :].partition("\n**")[0]
    return [shlex.split(line) for line in re.findall(r"^    ([A-Z]+ .*)$", text, re.MULTILINE)]


def answer(client: redis.Redis) -> dict[str, Any]:
    """Read the next result from the reply stream with its types, and remove it."""
    *_, read, delete = commands("To receive its result")
    ((_, ((entry_id, found),)),) = client.execute_command(*read)
    fields = {name.decode(): value for name, value in found.items()}
    types = json.loads(fields.pop("shared_sync.types", b"{}"))
    for name in fields.keys() - set(types.get("bytes", ())):
        fields[name] = fields[name].decode()
    for name in types.get("json", ()):
        fields[name] = json.loads(fields[name])
    assert client.execute_command(*delete[:-1], entry_id) == 1
    return fields


@pytest.fixture
def worker(redis_url: str) -> Iterator[RedisStreamConsumer]:
    """One that is not started yet."""

    def transcribe(_: str, job: dict[str, Any]) -> dict[str, object]:
        current_message().report_progress(0.5, text="spe")
        return {"text": "speech", "bytes": len(job["audio"]), "audio": job["audio"]}

    options: dict[str, Any] = {"binary_fields": ("audio",), "block_seconds": 0.2}
    made = RedisStreamConsumer(
        redis_url, "audio:jobs", "stt-workers", "stt-1", None, transcribe, **options
    )
    yield made
    made.stop()


def test_a_plain_client_receives_progress_and_a_result(
    client: redis.Redis, worker: RedisStreamConsumer
) -> None:
    make, expire, *_ = commands("To receive its result")
    client.execute_command(*make)
    client.execute_command(*expire)
    assert client.xlen(REPLIES) == 0 < client.pttl(REPLIES)
    (publish,) = commands("A job")
    message_id = client.execute_command(*[b"\0" if part == "<bytes>" else part for part in publish])
    worker.start()
    begin = {"message_id": message_id.decode()}
    assert answer(client) == {**begin, "status": "progress", "progress": 0.5, "text": "spe"}
    done = {"text": "speech", "bytes": 1, "audio": b"\0"}
    assert answer(client) == {**begin, "status": "done", **done}


def test_a_plain_client_cancels_a_job(client: redis.Redis, worker: RedisStreamConsumer) -> None:
    client.execute_command(*commands("To receive its result")[0])
    (publish,) = commands("A job")
    message_id = client.execute_command(*publish).decode()
    mark, keep = commands("To cancel a job")
    client.execute_command(*mark[:-1], message_id)
    client.execute_command(*keep)
    worker.start()
    ended = {"message_id": message_id, "status": "cancelled", "reason": "cancelled"}
    assert answer(client) == ended
    eventually(lambda: not client.exists("{audio:jobs}:cancelled"))
