"""A result that Redis will never take becomes a dead letter, and holds up no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from consumers import STREAM, Make, dead_letters, results
from helpers import Clock, Figures, eventually
from outboxes import Sender, bury, finish, park, settled
from protocol_client import METADATA

from shared_sync import RedisStreamProducer
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.errors import RedisRefused, RedisUnavailable
from shared_sync.protocol.messages import Answer, Bury, Entry, Finish
from shared_sync.protocol.replies import is_final, parse_settled
from shared_sync.redis_consumer import reader
from shared_sync.redis_consumer.settling.breaks import MOST_BREAKS, SMALLEST_LIMIT

LAST_ID = f"{2**64 - 1}-{2**64 - 1}"
EXHAUSTED = b"ERR The stream has exhausted the last possible ID, unable to add more items"
LARGE = 2 * SMALLEST_LIMIT

# --- a whole consumer, and real servers -------------------------------------------------------


LIMITS = ("proto-max-bulk-len", "client-query-buffer-limit")
"""What makes a server close the connection at a value that is larger."""


@pytest.fixture
def strict(own_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    """A client of a server that closes the connection at a value of more than a mebibyte."""
    with redis.Redis.from_url(own_server.url, protocol=2) as client:
        client.config_set(LIMITS[0], "1mb")
        yield client


def large_or_small(runs: list[str]) -> Callable[[str, dict[str, str]], object]:
    def processor(_: str, job: dict[str, str]) -> object:
        runs.append(job["n"])
        return {"text": "x" * LARGE} if job["n"] == "1" else {"text": job["n"]}

    return processor


@pytest.mark.parametrize(
    ("limit", "to"),
    [(LIMITS[0], {"result_stream": "results"}), (LIMITS[1], {"result_channel": "results"})],
)
def test_a_result_that_is_too_large_is_a_dead_letter_and_its_neighbours_go_out(
    own_server: EmbeddedRedis, strict: redis.Redis, make: Make, limit: str, to: dict[str, str]
) -> None:
    strict.config_set(LIMITS[0], 512 * 1024 * 1024)
    strict.config_set(limit, "1mb")
    runs: list[str] = []
    figures = Figures()
    with RedisStreamProducer(own_server.url, STREAM) as producer:
        producer.publish_many({"n": n} for n in range(6))
    consumer = make(large_or_small(runs), url=own_server.url, prefetch=6, metrics=figures, **to)
    consumer.start()
    eventually(lambda: strict.xlen(STREAM) == 0, within=30)
    (letter,) = dead_letters(strict)
    assert letter["n"] == "1"
    assert letter["dead.reason"].startswith("bad result: the connection broke 5 times")
    assert letter["dead.error_type"] == "InvalidResult"
    assert letter["dead.attempts"] == "1"
    assert sorted(runs) == list("012345"), "no message ran twice"
    if "result_stream" in to:
        texts = {answer["status"]: answer.get("text") for answer in results(strict)}
        assert sorted(a["text"] for a in results(strict) if a["status"] == "done") == list("02345")
        assert texts["dead"] is None
    eventually(lambda: figures.counters["jobs_processed"] == 5)
    eventually(lambda: figures.counters["jobs_dead"] == 1)
    assert figures.counters["jobs_lost"] == 0
    eventually(lambda: consumer.redis_connected)


def test_what_makes_a_result_too_large_may_be_what_is_carried_along(
    own_server: EmbeddedRedis, strict: redis.Redis, make: Make
) -> None:
    """Then the answer about the dead message goes out without it."""
    with RedisStreamProducer(own_server.url, STREAM) as producer:
        producer.publish({"client_id": "c1", "audio": "x" * 900_000})

    def processor(_: str, job: dict[str, str]) -> dict[str, str]:
        if job["client_id"] == "c2":  # it was read, and its result is still to be sent
            strict.config_set(LIMITS[0], "1mb")
        return {"text": "y" * 900_000, "more": "z" * 900_000}

    make(
        processor,
        url=own_server.url,
        result_stream="results",
        carry_fields=("client_id", "audio"),
    ).start()
    eventually(lambda: strict.xlen(STREAM) == 0)
    assert [answer["status"] for answer in results(strict)] == ["done"], "no value is too large"

    strict.config_set(LIMITS[0], 512 * 1024 * 1024)
    with RedisStreamProducer(own_server.url, STREAM) as producer:
        producer.publish({"client_id": "c2", "audio": "x" * LARGE})
    eventually(lambda: dead_letters(strict), within=30)
    *_, answer = results(strict)
    assert (answer["status"], answer["client_id"]) == ("dead", "c2")
    assert "audio" not in answer


def test_the_last_message_of_a_worker_that_stops_is_no_exception(
    own_server: EmbeddedRedis, strict: redis.Redis, make: Make
) -> None:
    """Else the worker would hand it to the next one, and so on."""
    with RedisStreamProducer(own_server.url, STREAM) as producer:
        producer.publish({"n": 1})
    runs: list[str] = []
    consumer = make(large_or_small(runs), url=own_server.url, result_stream="results")
    consumer.start()
    eventually(lambda: runs)
    assert consumer.stop()
    assert len(dead_letters(strict)) == 1
    assert strict.xlen(STREAM) == 0


def test_a_result_stream_without_ids_left_makes_dead_letters_and_stops_nobody(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    client.xadd("results", {"status": "the last"}, id=LAST_ID)
    producer.publish_many({"n": n} for n in range(3))
    figures = Figures()

    def processor(_: str, job: dict[str, str]) -> str | None:
        return None if job["n"] == "2" else job["n"]

    consumer = make(processor, result_stream="results", metrics=figures, prefetch=3)
    consumer.start()
    eventually(lambda: client.xlen(STREAM) == 0)
    letters = dead_letters(client)
    assert [letter["n"] for letter in letters] == ["0", "1"]
    assert "exhausted the last possible ID" in letters[0]["dead.reason"]
    assert letters[0]["dead.error_type"] == "InvalidResult"
    eventually(lambda: figures.counters["jobs_processed"] == 1)
    assert consumer.redis_connected
    assert client.xlen("results") == 1


def test_a_message_that_dies_without_ids_left_for_its_answer_is_buried_all_the_same(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    client.xadd("results", {"status": "the last"}, id=LAST_ID)
    producer.publish({"n": 1})
    figures = Figures()
    make(lambda *_: object(), result_stream="results", metrics=figures).start()
    eventually(lambda: dead_letters(client))
    eventually(lambda: figures.counters["results_unpublished"] == 1)


def test_a_result_that_redis_could_take_later_is_kept_and_its_neighbours_go_out(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A key of another type can be removed, a right granted, memory freed."""
    monkeypatch.setattr(reader, "SLOW_SECONDS", 60.0)  # all outcomes go together, as of quick jobs
    producer.publish_many({"n": n} for n in range(3))

    def processor(_: str, job: dict[str, str]) -> str | None:
        if job["n"] == "0":
            client.set("results", "in the way")
            return "0"
        return None

    consumer = make(processor, result_stream="results", prefetch=3)
    consumer.start()
    eventually(lambda: client.xlen(STREAM) == 1)
    assert not dead_letters(client)
    client.delete("results")
    eventually(lambda: client.xlen("results") == 1)
    eventually(lambda: consumer.redis_connected)


# --- the outbox -------------------------------------------------------------------------------


def broken() -> RedisUnavailable:
    error = RedisUnavailable("the connection broke")
    error.connection_broke = True
    return error


def large(message_id: str) -> Finish:
    return Finish(message_id, [b"text", b"x" * LARGE], entry=Entry(message_id, []))


def sender_of(*outcomes: Any) -> Sender:
    """An outbox that has just lost its connection."""

    def give_up(finish: Finish, why: str) -> Bury:
        reasons.append(why)
        return Bury(finish.id, "", METADATA, Answer())

    reasons: list[str] = []
    sender = Sender(broken(), give_up=give_up)
    sender.reasons = reasons  # type: ignore[attr-defined]
    for outcome in outcomes:
        sender.outbox.add(outcome)
    with pytest.raises(RedisUnavailable):
        sender.outbox.flush()
    sender.connection.sent.clear()
    return sender


def fail_to_flush(sender: Sender, *replies: Any) -> list[str]:
    """Have a flush fail; return what was sent, one parcel in each round trip."""
    sender.reply(*replies)
    before = len(sender.connection.sent)
    with pytest.raises(RedisUnavailable):
        sender.outbox.flush()
    return [name for names in sender.connection.names()[before:] for name in names]


def test_after_the_connection_broke_each_parcel_is_sent_alone_and_none_waits_for_another() -> None:
    sender = sender_of(finish("1"), large("2"), finish("3"), park("4"), bury("5"))
    sent = fail_to_flush(
        sender, settled(1), broken(), "pending", settled(1), settled(1), settled(1)
    )
    assert sent == [
        "finish_with_results",
        "finish_with_results",
        "XPENDING",
        "finish_with_results",
        "park",
        "bury",
    ]
    assert sender.outbox.ids() == ["2"]
    assert sender.outbox.is_held_up


def test_if_redis_goes_away_while_parcels_are_sent_alone_the_rest_stays_held_up() -> None:
    sender = sender_of(finish("1"), park("2"))
    sender.reply(settled(1))
    opened: list[int] = []

    def open_once() -> None:
        opened.append(1)
        if len(opened) > 3:  # the first parcel is sent
            raise broken()

    sender.connection.open = open_once  # type: ignore[method-assign]
    with pytest.raises(RedisUnavailable):
        sender.outbox.flush()
    assert sender.outbox.ids() == ["2"]
    assert sender.outbox.is_held_up


def test_a_result_at_which_the_connection_breaks_each_time_is_given_up() -> None:
    sender = sender_of(large("1"))
    for _ in range(MOST_BREAKS - 1):
        fail_to_flush(sender, broken(), "pending")
        assert sender.reasons == []  # type: ignore[attr-defined]
    fail_to_flush(sender, broken(), RedisRefused("NOGROUP"))
    (why,) = sender.reasons  # type: ignore[attr-defined]
    assert f"broke 5 times while this result of {LARGE + 4} bytes was sent" in why
    sender.reply(settled(1))
    sender.outbox.flush()
    assert sender.connection.names()[-1] == ["bury"]
    assert sender.jobs() == {"jobs_dead": 1}
    assert not sender.outbox.is_held_up


def never_given_up(sender: Sender, *replies: Any) -> None:
    for _ in range(2 * MOST_BREAKS):
        fail_to_flush(sender, *replies)
    assert sender.reasons == []  # type: ignore[attr-defined]
    assert sender.outbox.ids() == ["1"]


def test_an_outage_is_not_the_fault_of_a_result() -> None:
    never_given_up(sender_of(large("1")), broken(), broken())


def test_a_result_that_any_server_takes_is_not_at_fault() -> None:
    small = Finish("1", [b"text", b"x" * (SMALLEST_LIMIT - 10)], entry=Entry("1", []))
    never_given_up(sender_of(small), broken(), "pending")


@pytest.mark.parametrize("code", ["READONLY", "NOREPLICAS", "LOADING", "NOPERM"])
def test_a_server_that_cannot_write_now_is_not_the_fault_of_a_result(code: str) -> None:
    never_given_up(sender_of(large("1")), RedisUnavailable(code), "pending")


def test_breaks_count_only_in_a_row() -> None:
    sender = sender_of(large("1"))
    for _ in range(3):
        for _ in range(MOST_BREAKS - 1):
            fail_to_flush(sender, broken(), "pending")
        sender.reply(settled(1))
        sender.outbox.flush()
        sender.reply(broken())
        sender.outbox.add(large("1"))
        with pytest.raises(RedisUnavailable):
            sender.outbox.flush()
    assert sender.reasons == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "outage", [[broken(), broken()], [RedisUnavailable("READONLY"), "pending"]]
)
def test_an_outage_begins_the_count_of_breaks_anew(outage: list[Any]) -> None:
    sender = sender_of(large("1"))
    for _ in range(3):
        for _ in range(MOST_BREAKS - 1):
            fail_to_flush(sender, broken(), "pending")
        fail_to_flush(sender, *outage)
    assert sender.reasons == []  # type: ignore[attr-defined]


def test_where_the_connection_breaks_at_small_outcomes_too_no_result_is_at_fault() -> None:
    sender = sender_of(large("1"), park("2"))
    for _ in range(2 * MOST_BREAKS):
        fail_to_flush(sender, broken(), "pending", broken(), "pending")
    assert sender.reasons == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(("broke_after", "lasts"), [(0.001, 0.1), (0.1, 0.3), (7.0, 1.0)])
def test_after_a_break_the_next_connection_has_to_last_longer(
    broke_after: float, lasts: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else whoever cuts connections all the time would be taken for a limit of the server."""
    sender = sender_of(large("1"))
    clock = Clock()
    slept: list[tuple[float, int]] = []

    def receive() -> RedisUnavailable:
        clock.now += broke_after
        return broken()

    def sleep(seconds: float) -> None:
        slept.append((seconds, sender.connection.connects))

    monkeypatch.setattr("time.monotonic", clock)
    monkeypatch.setattr("time.sleep", sleep)
    fail_to_flush(sender, receive, "pending")
    assert slept == [(pytest.approx(lasts), sender.connection.connects)]


def test_once_all_is_settled_everything_goes_in_one_round_trip_again() -> None:
    sender = sender_of(finish("1"), park("2"))
    sender.reply(settled(1), settled(1))
    sender.outbox.flush()
    sender.outbox.add(finish("3"))
    sender.outbox.add(park("4"))
    sender.reply(settled(1), settled(1))
    sender.outbox.flush()
    assert sender.connection.names()[-1] == ["finish_with_results", "park"]


def test_results_travel_in_parcels_of_a_mebibyte_and_a_larger_one_alone() -> None:
    def result(message_id: str, size: int) -> Finish:
        return Finish(message_id, [b"x" * size])

    sender = Sender(*[settled(1, 1), settled(1), settled(1, 1)])
    sizes = [SMALLEST_LIMIT // 2, SMALLEST_LIMIT // 2, LARGE, 10, 10]
    for number, size in enumerate(sizes):
        sender.outbox.add(result(f"{number}", size))
    sender.outbox.flush()
    ids = 2 + 1 + 4 + 3
    (commands,) = sender.connection.sent
    assert [command[ids - 2] for command in commands] == [2, 1, 2]


def test_a_final_refusal_makes_a_dead_letter_at_once_and_the_others_are_settled() -> None:
    why: list[str] = []

    def give_up(finish: Finish, reason: str) -> Bury:
        why.append(reason)
        return Bury(finish.id, "", METADATA, Answer())

    sender = Sender(settled(1, EXHAUSTED, 1), settled(1), give_up=give_up)
    for number in "123":
        sender.outbox.add(finish(number))
    sender.outbox.flush()
    assert why == [f"Redis will never take this result: {EXHAUSTED.decode()}"]
    assert sender.outbox.ids() == ["2"]
    assert not sender.outbox.is_held_up
    sender.outbox.flush()
    assert sender.connection.names() == [["finish_with_results"], ["bury"]]
    assert sender.jobs() == {"jobs_processed": 2, "jobs_dead": 1}


@pytest.mark.parametrize(
    ("text", "final"),
    [
        (EXHAUSTED, True),
        (b"ERR Elements are too large to be stored", True),
        (
            b"ERR Error running script: @user_script:9: ERR Elements are too large to be stored",
            True,
        ),
        (b"OOM command not allowed when used memory > 'maxmemory'", False),
        (b"WRONGTYPE Operation against a key holding the wrong kind of value", False),
        (b"READONLY You can't write against a read only replica.", False),
    ],
)
def test_what_can_be_mended_is_no_final_refusal(text: bytes, final: bool) -> None:
    refusals = parse_settled(settled(text)).refusals
    assert [is_final(refusal) for refusal in refusals.values()] == [final]


def test_of_final_and_other_refusals_only_the_final_ones_are_given_up() -> None:
    sender = Sender(
        settled(EXHAUSTED, b"OOM no room"),
        give_up=lambda one, _: Bury(one.id, "", METADATA, Answer()),
    )
    sender.outbox.add(finish("1"))
    sender.outbox.add(finish("2"))
    with pytest.raises(RedisRefused, match="OOM"):
        sender.outbox.flush()
    assert sender.outbox.ids() == ["1", "2"]
    assert sender.outbox.is_held_up
