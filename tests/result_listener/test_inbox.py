"""What is received is kept until it is taken, within a limit."""

from __future__ import annotations

import threading
from itertools import islice

import pytest
from helpers import eventually

from shared_sync.result_listener.inbox import Inbox
from shared_sync.result_listener.result import Result


def done(message_id: str) -> Result:
    return Result(message_id, "done")


def progress(message_id: str) -> Result:
    return Result(message_id, "progress")


def test_a_result_that_came_before_it_is_waited_for_is_returned_and_its_progress_dropped() -> None:
    inbox = Inbox(10)
    for result in (progress("1-0"), done("2-0"), done("1-0")):
        inbox.put(result, 1)
    assert inbox.wait_for("1-0", 0) == done("1-0")
    assert inbox.wait_for("1-0", 0) is None
    assert len(inbox) == 1


def test_all_waiting_threads_get_a_result_and_it_is_not_kept() -> None:
    inbox = Inbox(10)
    got: list[Result | None] = []
    threads = [threading.Thread(target=lambda: got.append(inbox.wait_for("1-0", 10)))] * 1
    threads += [threading.Thread(target=lambda: got.append(inbox.wait_for("1-0", 10)))]
    for thread in threads:
        thread.start()
    eventually(lambda: len(inbox._waits.get("1-0", ())) == 2)
    inbox.put(progress("1-0"), 1)
    inbox.put(done("1-0"), 1)
    for thread in threads:
        thread.join(10)
    assert got == [done("1-0")] * 2
    assert len(inbox) == 0
    assert not inbox._waits


@pytest.mark.parametrize(("most", "most_bytes"), [(3, 1000), (100, 30)])
def test_the_oldest_is_dropped_while_nobody_takes_them_in_order(most: int, most_bytes: int) -> None:
    inbox = Inbox(most, most_bytes=most_bytes)
    for number in range(5):
        assert inbox.wait_for_room(0) > 0
        inbox.put(done(f"{number}-0"), 10)
    assert (len(inbox), inbox.dropped) == (3, 2)
    assert inbox.wait_for("1-0", 0) is None
    assert inbox.wait_for("2-0", 0) == done("2-0")


def test_no_result_is_dropped_once_results_are_taken_in_order() -> None:
    inbox = Inbox(2)
    inbox.read_in_order()
    for number in range(2):
        inbox.put(done(f"{number}-0"), 1)
    assert inbox.wait_for_room(0) == 0
    rooms: list[int] = []
    thread = threading.Thread(target=lambda: rooms.append(inbox.wait_for_room(10)))
    thread.start()
    assert [one.id for one in islice(iter(inbox.take, None), 1)] == ["0-0"]
    thread.join(10)
    assert (rooms, inbox.dropped) == ([1], 0)


def test_closing_ends_all_waits() -> None:
    inbox = Inbox(2)
    got: list[Result | None] = []
    threads = [
        threading.Thread(target=lambda: got.append(inbox.take())),
        threading.Thread(target=lambda: got.append(inbox.wait_for("1-0", None))),
    ]
    for thread in threads:
        thread.start()
    eventually(lambda: bool(inbox._waits))
    inbox.close()
    for thread in threads:
        thread.join(10)
    assert got == [None, None]
    assert inbox.wait_for("1-0", None) is None
