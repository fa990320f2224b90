"""What was put into an outbox is sent until Redis has confirmed it, and counted once."""

from __future__ import annotations

from typing import Any

import pytest
from outboxes import LOST, READ, REFUSED, Sender, bury, finish, park, settled
from readers import first

from shared_sync.errors import RedisRefused, RedisUnavailable
from shared_sync.protocol.messages import Outcome
from shared_sync.redis_consumer.settling.parcels import MOST_IDS, MOST_OUTCOMES

# --- one round trip ---------------------------------------------------------------------------


def test_all_outcomes_and_a_command_go_in_one_round_trip_and_come_back_confirmed() -> None:
    sender = Sender(2, settled(1), settled(1), settled(1), [1, 0], "the reply")
    sender.put("1-0", "2-0")
    for outcome in (bury("5-0"), park("4-0"), finish("3-0")):
        sender.outbox.add(outcome)
    sender.outbox.hand_back(["6-0"])
    assert sender.outbox.ids() == ["1-0", "2-0", "5-0", "4-0", "3-0", "6-0"]
    assert sender.outbox.unsettled == 5

    assert sender.outbox.exchange(READ) == "the reply"
    assert sender.connection.names() == [
        ["finish", "finish_with_results", "park", "bury", "hand_back", "XREADGROUP"]
    ]
    assert sender.outbox.ids() == []
    assert sender.outbox.unsettled == 0
    assert not sender.outbox.is_held_up
    assert sender.jobs() == {
        "jobs_processed": 3,
        "jobs_retried": 1,
        "jobs_dead": 1,
        "jobs_handed_back": 1,
    }
    assert sender.figures.counters["redis_operations"] == 6
    assert sender.availability.connected


def test_what_was_confirmed_is_not_sent_again() -> None:
    sender = Sender(1, "first", "second")
    sender.put("1-0")
    assert sender.outbox.exchange(READ) == "first"
    assert sender.outbox.exchange(READ) == "second"
    assert sender.connection.names() == [["finish", "XREADGROUP"], ["XREADGROUP"]]


def test_an_empty_outbox_sends_nothing_by_itself() -> None:
    sender = Sender()
    sender.outbox.flush()
    assert sender.connection.sent == []
    assert sender.connection.connects == 0


def test_outcomes_can_be_settled_without_another_command() -> None:
    sender = Sender(1)
    sender.put("1-0")
    sender.outbox.flush()
    assert sender.connection.names() == [["finish"]]
    assert sender.availability.connected


def test_many_messages_are_settled_in_pieces_so_that_no_script_takes_long() -> None:
    sender = Sender(MOST_IDS, MOST_IDS, 1, *[settled(*[1] * MOST_OUTCOMES)] * 2, settled(1, 1))
    sender.put(*[f"{n}-0" for n in range(2 * MOST_IDS + 1)])
    for n in range(2 * MOST_OUTCOMES + 2):
        sender.outbox.add(finish(f"{n}-1"))
    sender.outbox.hand_back(f"{n}-2" for n in range(MOST_OUTCOMES + 1))
    sender.reply([MOST_OUTCOMES, 0], [1, 0])
    sender.outbox.flush()
    assert sender.connection.names() == [
        [*["finish"] * 3, *["finish_with_results"] * 3, *["hand_back"] * 2]
    ]
    keys_and_group = 2 + 1 + 3 + 1
    ids = [len(command) - keys_and_group for command in sender.connection.sent[0][:3]]
    assert ids == [MOST_IDS, MOST_IDS, 1]
    assert sender.outbox.ids() == []
    assert sender.jobs() == {
        "jobs_processed": 2 * MOST_IDS + 1 + 2 * MOST_OUTCOMES + 2,
        "jobs_handed_back": MOST_OUTCOMES + 1,
    }


# --- taken over, deleted ----------------------------------------------------------------------


def test_of_messages_that_are_done_those_that_others_took_over_count_as_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sender = Sender(3)
    sender.put(*"12345")
    sender.outbox.flush()
    assert sender.jobs() == {"jobs_processed": 3, "jobs_lost": 2}
    assert "2 messages that are done here were taken over" in caplog.text
    assert sender.outbox.ids() == [], "nobody waits for them here"


OUTCOMES: list[tuple[Outcome, str]] = [
    (finish("1-0"), "jobs_processed"),
    (park("1-0"), "jobs_retried"),
    (bury("1-0"), "jobs_dead"),
]


@pytest.mark.parametrize(("outcome", "counter"), OUTCOMES)
def test_an_outcome_that_was_settled_counts_as_what_it_was(outcome: Outcome, counter: str) -> None:
    sender = Sender(settled(1))
    sender.outbox.add(outcome)
    sender.outbox.flush()
    assert sender.jobs() == {counter: 1}


@pytest.mark.parametrize(("outcome", "_counter"), OUTCOMES)
def test_an_outcome_of_a_message_that_was_taken_over_counts_as_lost_and_is_logged(
    outcome: Outcome, _counter: str, caplog: pytest.LogCaptureFixture
) -> None:
    sender = Sender(settled(0))
    sender.outbox.add(outcome)
    sender.outbox.flush()
    assert sender.jobs() == {"jobs_lost": 1}
    assert "message 1-0 was taken over by another consumer" in caplog.text


@pytest.mark.parametrize("repeated", [False, True])
def test_a_message_whose_entry_was_deleted_counts_as_a_lost_body(
    repeated: bool, caplog: pytest.LogCaptureFixture
) -> None:
    sender = Sender(*[LOST] * repeated, settled(-1))
    sender.outbox.add(park("1-0"))
    if repeated:
        with pytest.raises(RedisUnavailable):
            sender.outbox.flush()
    sender.outbox.flush()
    assert sender.jobs() == {"lost_bodies": 1}
    assert "message 1-0 cannot be kept" in caplog.text


def test_of_what_is_handed_back_only_what_went_back_counts() -> None:
    sender = Sender([2, 1])
    sender.outbox.hand_back(["1-0", "2-0", "3-0", "4-0"])
    sender.outbox.flush()
    assert sender.jobs() == {"jobs_handed_back": 2, "lost_bodies": 1}
    assert sender.outbox.ids() == []


# --- refused ----------------------------------------------------------------------------------


def test_a_refused_outcome_is_kept_and_sent_again_and_those_beside_it_are_settled() -> None:
    sender = Sender(settled(1, b"OOM no room", 1), settled(1))
    for number in "123":
        sender.outbox.add(finish(number))
    with pytest.raises(RedisRefused, match="OOM"):
        sender.outbox.flush()
    assert sender.outbox.ids() == ["2"]
    assert sender.outbox.is_held_up
    assert sender.jobs() == {"jobs_processed": 2}
    sender.outbox.flush()
    assert sender.jobs() == {"jobs_processed": 3}
    assert not sender.outbox.is_held_up
    assert sender.connection.connects == 1, "a refusal leaves the connection in step"


def test_a_refused_outcome_keeps_nothing_else_from_being_settled() -> None:
    sender = Sender(1, settled(b"OOM no room"), settled(1), REFUSED, settled(1), "reply")
    sender.put("1-0")
    for outcome in (finish("2-0"), park("3-0"), bury("4-0"), bury("5-0")):
        sender.outbox.add(outcome)
    assert sender.outbox.exchange(READ) == "reply", "the command beside it is carried out"
    assert sender.outbox.ids() == ["2-0", "4-0"]
    assert sender.outbox.is_held_up
    assert sender.jobs() == {"jobs_processed": 1, "jobs_retried": 1, "jobs_dead": 1}


def test_a_refused_settlement_was_not_carried_out_so_a_shortfall_later_is_a_loss() -> None:
    sender = Sender(REFUSED, 1)
    sender.put("1-0", "2-0")
    with pytest.raises(RedisRefused):
        sender.outbox.flush()
    sender.outbox.flush()
    assert sender.jobs() == {"jobs_processed": 1, "jobs_lost": 1}


def test_a_refused_command_leaves_what_was_settled_beside_it_settled() -> None:
    sender = Sender(1, REFUSED)
    sender.put("1-0")
    with pytest.raises(RedisRefused):
        sender.outbox.exchange(READ)
    assert sender.outbox.ids() == []
    assert not sender.outbox.is_held_up
    assert sender.connection.closes == 0


def test_a_channel_that_is_refused_is_counted_each_time_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refused = settled(1, unpublished=b"NOPERM no access to channel")
    sender = Sender(refused, refused)
    for number in "12":
        sender.outbox.add(finish(number))
        sender.outbox.flush()
    assert sender.jobs() == {"jobs_processed": 2, "results_unpublished": 2}
    assert sum("cannot be published" in text for text in caplog.messages) == 1


# --- what others see meanwhile ----------------------------------------------------------------


def test_whoever_waits_for_a_reply_says_so_and_metrics_are_passed_on_before_the_wait() -> None:
    sender = Sender()
    seen: list[tuple[bool, int]] = []

    def look() -> None:
        seen.append((sender.activity.receives, sender.flushes))

    sender.reply(first(look, then=1), first(look, then="reply"))
    sender.put("1-0")
    sender.outbox.exchange(READ, blocking=True)
    assert seen == [(True, 0), (True, 1)]
    assert not sender.activity.receives
    sender.reply(first(look, then="reply"))
    sender.outbox.exchange(READ, blocking=True)
    assert seen[-1] == (True, 2), "also without an outcome"


@pytest.mark.parametrize("replies", [[LOST], [1, LOST], [MemoryError()], ["nonsense"]])
def test_nobody_waits_for_a_reply_after_an_error(replies: list[Any]) -> None:
    sender = Sender(*replies)
    sender.put("1-0")
    with pytest.raises(BaseException):  # noqa: B017 - of whatever kind
        sender.outbox.exchange(READ)
    assert not sender.activity.receives
    assert sender.flushes > 0


def test_a_wait_that_is_interrupted_beforehand_sends_nothing() -> None:
    sender = Sender()
    sender.put("1-0")
    sender.connection.interrupt()
    assert sender.outbox.exchange(READ, blocking=True) is None
    assert sender.connection.sent == []
    sender.reply(1)
    sender.outbox.flush()
    assert sender.outbox.ids() == [], "an interrupt ends waits, and not what is left to settle"


def test_a_message_stays_in_the_outbox_until_its_confirmation_has_come() -> None:
    sender = Sender()
    seen: list[list[str]] = []
    sender.put("1-0")
    sender.outbox.add(finish("2-0"))

    def look() -> None:
        seen.append(sender.outbox.ids())

    sender.reply(first(look, then=1), first(look, then=settled(1)), first(look, then="reply"))
    sender.outbox.exchange(READ)
    assert seen == [["1-0", "2-0"], ["2-0"], []]
