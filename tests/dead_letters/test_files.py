"""Dead letters survive in a file as they are, and importing one again adds nothing."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from consumers import DEAD, GROUP, STREAM, bury
from faults.proxy import Proxy
from protocol_client import KEYS

from shared_sync import DeadLetters
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.dead_letters import DeadLetterFilter, files
from shared_sync.errors import ConfigurationError
from shared_sync.protocol.keys import Keys

OTHER = Keys.of(STREAM, "others")


@pytest.fixture
def letters(redis_url: str) -> Iterator[DeadLetters]:
    with DeadLetters(redis_url, STREAM, GROUP) as found:
        yield found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "letters.jsonl"


def fill(redis_url: str, client: redis.Redis) -> list[Any]:
    """Write dead letters of all kinds; return their entries."""
    many: dict[str, object] = {f"field-{n}": n for n in range(990)}
    bury(
        redis_url,
        {"text": "größer\n\u2028", "audio": b"\xff\x00" * 50_000},
        many,
        error=ValueError("x"),
    )
    client.xadd(STREAM, {"dead.id": "mine", "n": "1", b"\xff": b"\xfe"})
    client.xadd(STREAM, {f"f{n}": n for n in range(2500)})
    bury(redis_url, {"n": 2})
    client.xadd(DEAD, {"dead.reason": "of another program", "n": 3})
    return list(client.xrange(DEAD))


def test_what_is_exported_and_imported_is_the_same(
    redis_url: str, letters: DeadLetters, client: redis.Redis, file: Path
) -> None:
    entries = fill(redis_url, client)
    before = list(letters)
    assert letters.export_to(file) == len(entries) == 6
    assert len(letters) == 6
    client.delete(DEAD, KEYS.dead_index)
    assert letters.import_from(file) == (6, 0)
    assert client.xrange(DEAD)[:5] == entries[:5]
    after = list(letters)
    assert after[:5] == before[:5]
    # One without metadata gets them, so that its fields are not taken for them.
    assert (after[5].id, after[5].fields) == (before[5].id, before[5].fields)
    assert letters.import_from(file) == (0, 6)
    assert list(letters) == after
    assert [letter.size for letter in letters.iterate(with_fields=False)] == [
        letter.size for letter in after
    ]
    letters.replay([letter.id for letter in after])
    replayed = [
        {name.decode(errors="backslashreplace"): value for name, value in fields.items()}
        for _, fields in client.xrange(STREAM)
    ]
    assert replayed == [letter.fields for letter in before]


def test_letters_older_than_existing_ones_get_new_ids_once(
    redis_url: str, letters: DeadLetters, client: redis.Redis, file: Path
) -> None:
    old = [*fill(redis_url, client)]
    letters.export_to(file)
    with DeadLetters(redis_url, STREAM, OTHER.group) as others:
        assert others.import_from(file) == (6, 0)
        client.delete(OTHER.dead, OTHER.dead_index)
        bury_for_others = {"n": "newer", "dead.id": "9-9", "dead.reason": "rejected: no"}
        client.xadd(OTHER.dead, bury_for_others)
        assert others.import_from(file) == (6, 0)
        newer, *imported = others
        assert newer.imported_from == ""
        assert [letter.imported_from for letter in imported] == [
            letter_id.decode() for letter_id, _ in old
        ]
        assert [letter.fields for letter in imported] == [letter.fields for letter in letters]
        assert others.import_from(file) == (0, 6)
        # A file of what was imported has the same dead letters.
        assert others.export_to(file, where=DeadLetterFilter(reason="rejected: no use")) == 2
    assert letters.import_from(file) == (0, 2)
    assert len(letters) == 6


def test_a_file_has_a_readable_line_for_each_dead_letter(
    redis_url: str, letters: DeadLetters
) -> None:
    (message_id,) = bury(redis_url, {"client": "größer", "odd\u202e\x9b": 1, "audio": b"\xff"})
    (letter,) = letters
    file = io.BytesIO()
    letters.export_to(file)
    (line,) = file.getvalue().splitlines()
    exported = json.loads(line)
    assert exported["id"] == letter.id
    assert exported["fields"] == [
        ["client", "größer"],
        ["odd\u202e\x9b", "1"],
        ["audio", {"base64": "/w=="}],
    ]
    assert exported["metadata"][:2] == [["dead.id", message_id], ["dead.reason", letter.reason]]
    assert "größer".encode() in line
    assert not any(sign.encode() in line for sign in ("\u202e", "\x9b"))  # it may be a terminal


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"5",
        b'{"id": "1-1"}',
        b'{"id": ["1-1"], "fields": [], "metadata": []}',
        b'{"id": "\\ud800", "fields": [], "metadata": []}',
        b'{"id": "1-1", "fields": [["a"]], "metadata": []}',
        b'{"id": "1-1", "fields": [["a", {"base64": "%"}]], "metadata": []}',
        b'{"id": "1-1", "fields": [["a", 5]], "metadata": []}',
        b"\xff",
        b"[" * 100_000,
    ],
    ids=str,
)
def test_a_line_that_is_no_dead_letter_is_named_and_those_before_it_are_there(
    redis_url: str, letters: DeadLetters, line: bytes
) -> None:
    bury(redis_url, {"n": 1})
    file = io.BytesIO()
    letters.export_to(file)
    with DeadLetters(redis_url, STREAM, OTHER.group) as others:
        with pytest.raises(ConfigurationError, match="line 3 is not"):
            others.import_from(io.BytesIO(file.getvalue() + b"\n" + line))
        assert len(others) == 1


def test_an_export_that_fails_leaves_no_file(
    redis_url: str, letters: DeadLetters, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(redis_url, {"n": 1})
    monkeypatch.setattr(files, "line_of", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        letters.export_to(file)
    assert list(file.parent.iterdir()) == []


def test_several_who_import_the_same_file_at_the_same_time_add_each_letter_once(
    redis_url: str, client: redis.Redis, letters: DeadLetters, file: Path
) -> None:
    with client.pipeline(transaction=False) as many:
        for n in range(100):
            many.xadd(DEAD, {"n": n, "dead.id": f"{n + 1}-0", "dead.reason": "rejected: no"})
        many.execute()
    letters.export_to(file)
    client.xadd(OTHER.dead, {"n": "newer", "dead.id": "9-9", "dead.reason": "rejected: no"})
    together = threading.Barrier(3)

    def import_all() -> tuple[int, int]:
        with DeadLetters(redis_url, STREAM, OTHER.group) as own:
            together.wait(20)
            return own.import_from(file)

    with ThreadPoolExecutor(3) as pool:
        counts = [one.result(60) for one in [pool.submit(import_all) for _ in range(3)]]
    assert sum(added for added, _ in counts) == 100
    assert [added + present for added, present in counts] == [100] * 3
    assert client.xlen(OTHER.dead) == 101


def test_an_import_whose_replies_are_lost_adds_each_letter_once(
    redis_server: EmbeddedRedis, redis_url: str, client: redis.Redis, letters: DeadLetters
) -> None:
    bury(redis_url, *({"n": n} for n in range(20)))
    file = io.BytesIO()
    letters.export_to(file)
    client.xadd(OTHER.dead, {"n": "newer", "dead.id": "9-9", "dead.reason": "rejected: no"})
    file.seek(0)
    with (
        closing(Proxy(redis_server.port)) as proxy,
        DeadLetters(proxy.url, STREAM, OTHER.group) as others,
    ):
        fault = proxy.lose_reply("import", times=7)
        added, present = others.import_from(file)
        assert fault.happened.is_set()
    assert added + present == 20
    assert client.xlen(OTHER.dead) == 21
