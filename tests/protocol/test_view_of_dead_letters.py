"""The table of the dead letters of a group, against what was really done in Redis."""

from __future__ import annotations

import re
from typing import Any

import pytest
import redis
from consumers import DEAD, STREAM, Make
from group_views import add_dead_letter, commands_during
from helpers import eventually
from protocol_client import Worker

from shared_sync import RedisStreamProducer, Reject, RetryPolicy
from shared_sync.isolation.errors import ChildCrashed
from shared_sync.protocol import inspection
from shared_sync.protocol.inspection import GroupView


def test_dead_letters_of_one_cause_share_a_fingerprint_and_different_causes_differ(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    def fail(_: str, job: dict[str, str]) -> None:
        kind, _, number = job["n"].partition(" ")
        if kind == "rejected":
            raise Reject(f"no speech in '{number}.wav'")
        if kind == "short":
            raise ValueError(f"only {number} samples at 0x7f{number}a0")
        raise OSError(f"host gpu-{number} is away")

    consumer = make(fail, retry=RetryPolicy(max_attempts=1))
    consumer.start()
    jobs = [f"{kind} {n}" for kind in ("rejected", "short", "away") for n in (1, 22)]
    published = {producer.publish({"n": job, "audio": "x" * 100_000}): job for job in jobs}
    client.xadd(STREAM, {"audio": b"\xff"})
    eventually(lambda: client.xlen(DEAD) == len(jobs) + 1)

    tables = consumer.get_group_view()
    assert tables["dead_letters_total"] == len(jobs) + 1
    rows = {published.get(row["message_id"], "bad"): row for row in tables["dead_letters"]}
    prints = {job: row["fingerprint"] for job, row in rows.items()}
    for kind in ("rejected", "short", "away"):
        assert prints[f"{kind} 1"] == prints[f"{kind} 22"]
    assert len(set(prints.values())) == 4
    assert all(re.fullmatch("[0-9a-f]{8}", each) for each in prints.values())
    shown = {job: (row["reason"], row["error_type"], row["details"]) for job, row in rows.items()}
    assert shown["rejected 1"] == ("rejected", "Reject", "no speech in '1.wav'")
    assert shown["short 22"] == (
        "failed 1 times",
        "ValueError",
        "only 22 samples at 0x7f22a0",
    )
    reason, error_type, details = shown["bad"]
    assert (reason, error_type) == ("bad input", None)
    assert details.startswith("field 'audio' is not UTF-8")
    assert all(0 <= row["seconds_ago"] < 60 and row["attempts"] == 1 for row in rows.values())


def test_a_reason_never_contains_text_of_others(client: redis.Redis, view: GroupView) -> None:
    for reason in (
        "rejected: secret",
        "bad input: secret",
        "failed secret times",
        "failed 3 times: secret",
        "secret",
        "",
    ):
        add_dead_letter(client, reason=reason, error_type="not a type: secret", attempts="secret")
    add_dead_letter(client, reason="crashed: its process died 3 times", attempts="3")
    rows = view.read()["dead_letters"]
    assert rows[0]["reason"] == "crashed: its process died 3 times"
    assert [row["reason"] for row in rows[1:]] == ["unknown"] * 4 + ["bad input", "rejected"]
    for row in rows[1:]:
        assert row["error_type"] is row["attempts"] is None
    assert rows[-1]["details"] == "secret"


@pytest.mark.parametrize(
    "reason",
    [
        "crashed: its process died: ended with exit code 3",
        "crashed: its process died 3 times, the last time killed by signal 40",
        f"crashed: its process died 2 times, the last time {ChildCrashed(-9)}",
        "crashed: its process died 2 times, the last time its worker broke",
    ],
)
def test_the_page_shows_how_a_message_has_crashed(
    view: GroupView, client: redis.Redis, reason: str
) -> None:
    add_dead_letter(client, reason=reason)
    assert view.read()["dead_letters"][0]["reason"] == reason


def test_fields_of_a_message_cannot_replace_the_metadata_of_its_dead_letter(
    worker: Worker, view: GroupView, client: redis.Redis
) -> None:
    (message_id,) = worker.publish([b"dead.reason", b"failed 7 times", b"dead.id", b"1-1"])
    worker.read()
    worker.bury(message_id)
    (row,) = view.read()["dead_letters"]
    assert (row["reason"], row["details"]) == ("rejected", "no")


def test_the_newest_fifty_are_listed_and_later_readings_follow_changes(
    client: redis.Redis, view: GroupView
) -> None:
    def expect_newest() -> None:
        newest = [entry_id.decode() for entry_id, _ in client.xrevrange(DEAD, count=50)]
        tables = view.read()
        assert [row["id"] for row in tables["dead_letters"]] == newest
        assert tables["dead_letters_total"] == client.xlen(DEAD)

    expect_newest()
    ids = [add_dead_letter(client, id=f"{n}-0") for n in range(30)]
    expect_newest()
    ids += [add_dead_letter(client, id=f"{n}-0") for n in range(30)]
    expect_newest()
    client.xdel(DEAD, ids[-1])
    expect_newest()
    client.xdel(DEAD, ids[-2], ids[0])
    ids += [add_dead_letter(client) for _ in range(2)]
    expect_newest()
    ids += [add_dead_letter(client) for _ in range(70)]
    expect_newest()
    client.xtrim(DEAD, 5)
    expect_newest()
    client.delete(DEAD)
    expect_newest()
    add_dead_letter(client)
    expect_newest()


def test_one_reading_reads_only_a_few_large_dead_letters(
    client: redis.Redis, view: GroupView
) -> None:
    for _ in range(10):
        client.xadd(DEAD, {"audio": b"\0" * 1_000_000, "dead.reason": "rejected: no"})
    readings = [view.read() for _ in range(3)]
    assert [len(tables["dead_letters"]) for tables in readings] == [5, 10, 10]
    assert {tables["dead_letters_total"] for tables in readings} == {10}


def test_known_dead_letters_are_not_read_again(client: redis.Redis, view: GroupView) -> None:
    for _ in range(3):
        add_dead_letter(client)
    view.read()
    add_dead_letter(client)
    commands = [command for _, command in commands_during(client, view.read)]
    # The new one, that there is no other, and that none is older.
    reads = [command for command in commands if command.startswith(f"XREVRANGE {DEAD} ")]
    assert len(reads) == 3, commands
    assert len(view.read()["dead_letters"]) == 4


def count_all(view: GroupView, most: int) -> dict[str, Any]:
    """Read until all causes are counted; each reading reads some more letters."""
    tables = view.read()
    while tables["dead_letters_counted"] < min(tables["dead_letters_total"], most):
        before = tables["dead_letters_counted"]
        tables = view.read()
        assert tables["dead_letters_counted"] > before
    return tables


def test_the_causes_of_all_letters_are_counted_and_not_of_the_newest_only(
    client: redis.Redis, view: GroupView
) -> None:
    def add(count: int, error_type: str, attempts: int, **metadata: object) -> None:
        with client.pipeline(transaction=False) as many:
            for n in range(count):
                fields = {"error_type": error_type, "error": f"file {n}", "attempts": attempts}
                add_dead_letter(
                    many, **{"reason": f"failed {attempts} times", **fields, **metadata}
                )
            many.execute()

    add(300, "OSError", 3)
    add(1, "OSError", 5, reason="rejected: file 7")
    add(60, "ValueError", 2)
    tables = count_all(view, 1000)
    assert len(tables["dead_letters"]) == 50
    assert tables["dead_letters_counted"] == tables["dead_letters_total"] == 361
    newest, rejected, oldest = tables["dead_letter_causes"]
    assert tables["dead_letter_causes_total"] == 3
    assert (newest["error_type"], newest["letters"], newest["attempts"]) == ("ValueError", 60, 2)
    assert (rejected["letters"], rejected["reasons"]) == (1, ["rejected"])
    assert (oldest["error_type"], oldest["letters"], oldest["attempts"]) == ("OSError", 300, 3)
    assert oldest["reasons"] == ["failed 3 times"]
    assert 0 <= newest["seconds_ago"] <= oldest["seconds_ago"] < 60

    # Letters that go are not counted any more, those that come are.
    client.xdel(DEAD, *(entry_id for entry_id, _ in client.xrange(DEAD, count=100)))
    add(1, "OSError", 9)
    tables = count_all(view, 1000)
    assert [cause["letters"] for cause in tables["dead_letter_causes"]] == [201, 60, 1]
    assert tables["dead_letter_causes"][0]["attempts"] == 9


def test_of_very_many_letters_the_causes_of_the_newest_thousand_are_counted_in_steps(
    client: redis.Redis, view: GroupView
) -> None:
    with client.pipeline(transaction=False) as many:
        for _ in range(1500):
            add_dead_letter(many, reason="rejected: no")
        many.execute()
    commands = [command for _, command in commands_during(client, view.read)]
    assert sum(command.startswith("XREVRANGE") for command in commands) <= 201
    tables = count_all(view, 1000)
    assert (tables["dead_letters_counted"], tables["dead_letters_total"]) == (1000, 1500)
    (cause,) = tables["dead_letter_causes"]
    assert cause["letters"] == 1000


def test_of_large_letters_fewer_are_counted(
    client: redis.Redis, view: GroupView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "MOST_COUNTED_BYTES", 6_000_000)
    monkeypatch.setattr(inspection, "MOST_LETTERS", 3)
    for _ in range(12):
        client.xadd(DEAD, {"audio": b"\0" * 1_000_000, "dead.reason": "rejected: no"})
    counted = [view.read()["dead_letters_counted"] for _ in range(4)]
    assert counted == [5, 10, 10, 10]
    add_dead_letter(client, reason="failed 2 times")
    tables = view.read()
    assert [cause["letters"] for cause in tables["dead_letter_causes"]] == [1, 9]
    assert (tables["dead_letters_counted"], tables["dead_letters_total"]) == (10, 13)


def test_a_bad_result_is_a_reason_of_its_own(client: redis.Redis, view: GroupView) -> None:
    add_dead_letter(client, reason="bad result: field 'x' is a set", error_type="InvalidResult")
    (row,) = view.read()["dead_letters"]
    assert (row["reason"], row["details"]) == ("bad result", "field 'x' is a set")
