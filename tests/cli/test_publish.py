"""shared-sync publish: fields and lines of JSON become messages, and nothing is half published."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from consumers import GROUP, STREAM
from helpers import eventually

from shared_sync import RedisStreamConsumer
from shared_sync.cli.main import main

Publish = Callable[..., int]


@pytest.fixture
def publish(redis_url: str, client: redis.Redis) -> Publish:
    """Runs the command on a stream that exists; its exit status."""
    client.xgroup_create(STREAM, GROUP, mkstream=True)
    return lambda *words: main(
        ["publish", "--redis-url", redis_url, "--stream", STREAM, *map(str, words)]
    )


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """A file of 250 messages, of which the one in line 207 is no JSON."""
    file = tmp_path / "messages.jsonl"
    numbered = [json.dumps({"n": n}) for n in range(1, 251)]
    numbered[206] = "{n: 207}"
    file.write_text("\n".join(numbered))
    return file


def stored(client: redis.Redis) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in client.xrange(STREAM)]


def test_arguments_and_files_are_the_fields_of_a_message(
    publish: Publish, client: redis.Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio = tmp_path / "a.wav"
    audio.write_bytes(b"RIFF\xff\x00")
    assert (
        publish("text=a=b ", f"audio=@{audio}", "--json", "handle=@@me", "empty=", "raw=\udcff")
        == 0
    )
    document = json.loads(capsys.readouterr().out)
    [(entry_id, fields)] = client.xrange(STREAM)
    assert document == {"id": entry_id.decode()}
    assert fields == {
        b"text": b"a=b ",
        b"audio": b"RIFF\xff\x00",
        b"handle": b"@me",
        b"empty": b"",
        b"raw": b"\xff",
    }


def test_lines_are_published_up_to_the_one_at_fault_and_then_from_there(
    publish: Publish, client: redis.Redis, lines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish("--json-lines", lines) == 1
    out, err = capsys.readouterr()
    assert out.split() == [entry_id.decode() for entry_id, _ in client.xrange(STREAM)]
    assert err.startswith("shared-sync: line 207 is not JSON (")
    assert err.endswith("; 206 messages are published; go on with --from-line 207\n")
    lines.write_text(lines.read_text().replace("{n: 207}", '{"n": 207, "dead.id": "1"}'))
    assert publish("--json-lines", lines, "--from-line", 207) == 1
    assert "line 207: field 'dead.id' begins with" in capsys.readouterr().err
    lines.write_text(lines.read_text().replace(', "dead.id": "1"', ', "b": {"base64": "/w=="}'))
    assert publish("--json-lines", lines, "--from-line", 207) == 0
    assert [fields[b"n"] for fields in stored(client)] == [b"%d" % n for n in range(1, 251)]
    assert stored(client)[206][b"b"] == b"\xff"


def test_a_full_stream_ends_it_where_it_says(
    publish: Publish, client: redis.Redis, lines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish("--json-lines", lines, "--max-queue-depth", 130) == 1
    assert "; 130 messages are published; go on with --from-line 131" in capsys.readouterr().err
    assert client.xlen(STREAM) == 130


def test_a_file_with_keys_can_be_published_again(
    publish: Publish, client: redis.Redis, lines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:120]))
    command = ("--json-lines", lines, "--deduplicate-field", "n")
    assert [publish(*command), publish(*command)] == [0, 0]
    ids = capsys.readouterr().out.split()
    assert ids[:120] == ids[120:]
    assert client.xlen(STREAM) == 120


def test_lines_of_a_program_that_goes_on_writing_are_published_at_once(
    publish: Publish, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = threading.Event()

    class Slow(io.RawIOBase):
        """Gives one and a half lines, and the rest once the first message has arrived."""

        pieces = iter([b'{"n": 1}\n{"n"', b": 2}\n"])

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            piece = next(self.pieces, b"")
            if piece.startswith(b":"):
                eventually(lambda: client.xlen(STREAM) == 1)
                arrived.set()
            buffer[: len(piece)] = piece
            return len(piece)

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Slow())))
    assert publish("--json-lines", "-") == 0
    assert arrived.is_set()
    assert [fields[b"n"] for fields in stored(client)] == [b"1", b"2"]


def test_results_are_waited_for_and_a_message_that_is_not_done_is_exit_status_1(
    publish: Publish, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def processor(_: str, message: dict[str, Any]) -> dict[str, object]:
        return {"text": message["text"].upper(), "audio": b"\xff", "n": 1 // len(message["text"])}

    with RedisStreamConsumer(redis_url, STREAM, GROUP, "w1", None, processor, max_crashes=2):
        assert publish("text=hello", "--wait", 20) == 0
        first, *rest = capsys.readouterr().out.splitlines()
        assert first.endswith(" done")
        assert rest == ["  text = HELLO", "  audio = {'base64': '/w=='}", "  n = 0"]
        assert publish("text=", "--wait", 20, "--expires-seconds", 1, "--json") == 1
        result = json.loads(capsys.readouterr().out)
        assert result["status"] == "expired"
    assert publish("text=x", "--wait", 0.1) == 1
    assert "has no result after 0.1 s" in capsys.readouterr().out


def test_a_mistyped_stream_is_refused_with_the_nearest_names(
    publish: Publish, redis_url: str, client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["publish", "--redis-url", redis_url, "--stream", "job", "n=1"]
    assert main(command) == 1
    assert capsys.readouterr().err == (
        "shared-sync: there is no stream 'job' on this server; did you mean 'jobs'? --create "
        "publishes to a new stream\n"
    )
    assert main([*command, "--create"]) == 0
    assert client.xlen("job") == 1


@pytest.mark.parametrize(
    ("words", "status", "remedy"),
    [
        ((), 2, "give fields or --json-lines"),
        (("n=1", "--json-lines", "x"), 2, "not both"),
        (("s3cret",), 2, "field 1 is not NAME=VALUE"),
        (("n=1", "n=2"), 2, "given twice"),
        (("n=@/nowhere/x",), 1, "/nowhere/x cannot be read: No such file"),
        (("--json-lines", "/nowhere/x"), 1, "/nowhere/x cannot be read: No such file"),
        (("n=1", "--at", "tomorrow"), 2, "--at must be a time such as"),
        (("n=1", "--at", "2030-01-31T08:00:00"), 2, "time zone"),
        (("n=1", "--expires-seconds", "-1"), 2, "--expires-seconds must be a number of seconds"),
        (("n=1", "--reply-to", "x"), 2, "reply_to 'x' is not a reply stream"),
        (("--json-lines", "-", "--deduplicate-key", "k"), 2, "give --deduplicate-field"),
        (("n=1", "--deduplicate-field", "m"), 1, "no field 'm' for its key"),
    ],
)
def test_what_cannot_work_is_one_line_and_publishes_nothing(
    words: tuple[str, ...],
    status: int,
    remedy: str,
    publish: Publish,
    client: redis.Redis,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert publish(*words) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert remedy in line
    assert "s3cret" not in line
    assert client.xlen(STREAM) == 0
