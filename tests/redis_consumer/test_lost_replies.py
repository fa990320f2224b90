"""A message whose replies are lost again and again is known by that, and its neighbours are not."""

from __future__ import annotations

from shared_sync.protocol.messages import LostEntry
from shared_sync.redis_consumer.lost_replies import (
    MOST_KNOWN,
    MOST_LOST_ALONE,
    SAME_DELIVERY_MS,
    LostReplies,
)


def lost(message_id: str, delivered_ms: int = 0) -> LostEntry:
    return LostEntry(message_id, 1, b"", delivered_ms)


def test_each_lost_message_is_asked_for_once_after_it_was_named() -> None:
    replies = LostReplies()
    assert replies.named([lost("1-0"), lost("2-0")]) == []
    assert replies.named([lost("1-0"), lost("2-0")]) == []
    assert [replies.next() for _ in range(3)] == ["1-0", "2-0", ""]


def test_a_message_that_is_delivered_alone_again_and_again_and_never_arrives_is_given_up_on() -> (
    None
):
    replies = LostReplies()
    for number in range(MOST_LOST_ALONE):
        assert replies.named([lost("1-0", number * SAME_DELIVERY_MS)]) == []
        assert replies.next() == "1-0"
    last = lost("1-0", MOST_LOST_ALONE * SAME_DELIVERY_MS)
    assert replies.named([last]) == [last]
    assert replies.next() == ""


def test_a_message_that_is_named_again_and_was_not_delivered_again_is_not_given_up_on() -> None:
    """The connection could not be made, or what asked for it never reached the server."""
    replies = LostReplies()
    for number in range(100):
        assert replies.named([lost("1-0", number % SAME_DELIVERY_MS)]) == []
        assert replies.next() == "1-0"


def test_a_message_that_arrived_begins_anew() -> None:
    replies = LostReplies()
    for number in range(100):
        assert replies.named([lost("1-0", number * SAME_DELIVERY_MS)]) == []
        assert replies.next() == "1-0"
        replies.arrived("1-0")


def test_of_very_many_lost_messages_the_oldest_are_forgotten() -> None:
    replies = LostReplies()
    replies.named(lost(f"{number}-0") for number in range(MOST_KNOWN + 5))
    assert len(replies._losses) == MOST_KNOWN
