"""Records of a child are on their way at once; a parent that takes none holds nobody up."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from helpers import eventually

from shared_sync.isolation import frames, side_channel
from shared_sync.isolation.side_channel import SideChannel
from shared_sync.isolation.wire import Channel, ChannelClosed, encode

LONG = {"msg": "x" * 50_000}


@pytest.fixture
def ends() -> Iterator[tuple[SideChannel, Channel]]:
    child, parent = socket.socketpair()
    with child, parent:
        yield SideChannel(child), Channel(parent)


def test_records_and_metrics_arrive_in_their_order(ends: tuple[SideChannel, Channel]) -> None:
    child, parent = ends
    child.log({"msg": "one"})
    child.metrics(lambda: {"counters": []})
    child.metrics(lambda: None)
    child.log({"msg": "two"})
    assert parent.receive() == (frames.LOG, {"msg": "one"}, ())
    assert parent.receive() == (frames.METRICS, {"counters": []}, ())
    assert parent.receive() == (frames.LOG, {"msg": "two"}, ())


def test_a_finalizer_may_log_while_a_record_is_encoded(
    ends: tuple[SideChannel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    child, parent = ends
    parent.socket.settimeout(5)
    monkeypatch.setattr(side_channel, "WAIT_SECONDS", 0.05)
    encode, inner = side_channel.encode, [{"msg": "y" * 5_000_000}]

    def encode_and_finalize(kind: int, header: object) -> bytes:
        if inner:
            child.log(inner.pop())
        return encode(kind, header)

    monkeypatch.setattr(side_channel, "encode", encode_and_finalize)
    outer = threading.Thread(target=child.log, args=({"msg": "outer"},))
    outer.start()
    outer.join(5)
    flush = threading.Thread(target=lambda: eventually(lambda: flushed(child)))
    flush.start()
    assert len(parent.receive().header["msg"]) == 5_000_000
    assert parent.receive().header == {"msg": "outer"}
    flush.join(5)


def flushed(child: SideChannel) -> bool:
    """Whether all is sent; sends what the parent takes."""
    done: list[bool] = []
    child.metrics(lambda: done.append(True))
    return bool(done)


def test_a_flood_holds_the_child_up_once_and_says_how_much_it_has_dropped(
    ends: tuple[SideChannel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_channel, "WAIT_SECONDS", 0.2)
    child, parent = ends
    began = time.monotonic()
    for _ in range(1000):
        child.log(LONG)
    assert time.monotonic() - began < 5, "it did not wait a thousand times"
    child.metrics(lambda: pytest.fail("taken out of the recorder, and lost"))
    parent.socket.settimeout(0.2)
    received = 0
    with suppress(ChannelClosed):  # nothing more comes
        while True:
            assert parent.receive().header == LONG
            received += 1
    assert 0 < received < 1000


def test_after_a_flood_records_arrive_again_with_the_number_of_dropped_ones() -> None:
    child_end, parent_end = socket.socketpair()
    with child_end, parent_end:
        child, parent = SideChannel(child_end), Channel(parent_end)
        child._is_stuck = True  # the parent has taken nothing for a second
        sent = 0
        while child._finish_last():
            child.log(LONG)
            sent += 1
        for _ in range(3):
            child.log(LONG)
        for _ in range(sent - 1):
            assert parent.receive().header == LONG
        child.log({"msg": "again"})  # what is left of the last one goes first
        assert parent.receive().header == LONG
        assert parent.receive().header == {"msg": "again", "dropped": 3}


def test_the_end_of_the_parent_is_no_error(ends: tuple[SideChannel, Channel]) -> None:
    child, parent = ends
    assert not child.told_to_end
    assert not child.parent_has_ended
    parent.close()
    child.log({"msg": "nobody there"})
    assert child.told_to_end
    assert child.parent_has_ended
    assert child.cancelled(10) == []


def test_the_word_to_end_is_seen_as_often_as_anybody_looks(
    ends: tuple[SideChannel, Channel],
) -> None:
    child, parent = ends
    assert child.cancelled(0.001) == []
    assert not child.told_to_end
    parent.send(frames.CANCEL, ["1-0"])
    parent.send(frames.END, None)
    assert child.told_to_end
    assert child.cancelled(10) == ["1-0"]
    assert child.told_to_end
    assert child.cancelled(10) == []
    assert child.told_to_end
    assert not child.parent_has_ended


def test_cancellations_arrive_in_frames_as_they_come(ends: tuple[SideChannel, Channel]) -> None:
    child, parent = ends
    assert parent.send_at_once(frames.CANCEL, ["1-0", "2-0"])
    assert parent.send_at_once(frames.CANCEL, ["3-0"])
    assert not child.told_to_end
    assert child.cancelled(10) == ["1-0", "2-0", "3-0"]
    frame = encode(frames.CANCEL, ["4-0"])
    parent.socket.send(frame[:10])
    assert child.cancelled(10) == []
    parent.socket.send(frame[10:])
    assert child.cancelled(10) == ["4-0"]
    assert not child.told_to_end


def test_a_parent_is_not_held_up_by_a_child_that_takes_nothing(
    ends: tuple[SideChannel, Channel],
) -> None:
    child, parent = ends
    sent = 0
    while parent.send_at_once(frames.CANCEL, [f"{sent}-0"]):
        sent += 1
    received: list[str] = []
    while len(received) < sent:
        received += child.cancelled(10)
    assert received == [f"{number}-0" for number in range(sent)]
    assert parent.send_at_once(frames.CANCEL, ["1-1"])


def test_progress_arrives_in_order_unless_the_parent_receives_nothing(
    ends: tuple[SideChannel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_channel, "WAIT_SECONDS", 0.05)
    child, parent = ends
    child.progress([1, "1-0", "0.5"])
    child.log({"msg": "between"})
    child.progress([1, "1-0", "0.6"])
    assert parent.receive() == (frames.PROGRESS, [1, "1-0", "0.5"], ())
    assert parent.receive() == (frames.LOG, {"msg": "between"}, ())
    assert parent.receive() == (frames.PROGRESS, [1, "1-0", "0.6"], ())
    while not child._is_stuck:
        child.log(LONG)
    child.progress([1, "1-0", "0.7"])  # dropped
    while (frame := parent.receive()).kind == frames.LOG:
        if flushed(child):
            child.progress([1, "1-0", "0.8"])
    assert frame == (frames.PROGRESS, [1, "1-0", "0.8"], ())


def test_a_signal_handler_may_log_while_a_record_is_being_sent(
    ends: tuple[SideChannel, Channel],
) -> None:
    """Its record is dropped and counted: the other one is not complete yet."""
    child, parent = ends
    before = signal.signal(signal.SIGUSR1, lambda *_: child.log({"msg": "handler"}))
    real = child._socket

    class Interrupted:
        """Sends as the socket does, with a signal in the middle."""

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def send(self, data: memoryview) -> int:
            os.kill(os.getpid(), signal.SIGUSR1)
            return real.send(data)

    try:
        child._socket = Interrupted()  # type: ignore[assignment]
        child.log({"msg": "outer"})
    finally:
        child._socket = real
        signal.signal(signal.SIGUSR1, before)
    child.log({"msg": "next"})
    assert parent.receive().header == {"msg": "outer"}
    assert parent.receive().header == {"msg": "next", "dropped": 1}
