"""Errors of one cause share a fingerprint."""

from __future__ import annotations

import pytest

from shared_sync.protocol.fingerprint import fingerprint


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("took 12.5 s", "took 9 s"),
        ("object at 0x7fdeadbeef", "object at 0x1"),
        ("no file '/tmp/a b.wav'", "no file '/tmp/other.wav'"),
        ('no client "anna"', 'no client "bob"'),
        ("job 3f2504e0-4f89-11d3-9a0c-0305e82c3301", "job 1f2504e0-4f89-11d3-9a0c-0305e82c3301"),
        ("cannot decode b'\\xff'", "cannot decode b'ab'"),
    ],
)
def test_texts_that_vary_within_one_cause_do_not_count(one: str, other: str) -> None:
    assert fingerprint("E", "failed 1 times", one) == fingerprint("E", "failed 5 times", other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("E", "rejected", "x"), ("F", "rejected", "x")),
        (("E", "rejected", "x"), ("E", "failed 3 times", "x")),
        (("E", "rejected", "too long"), ("E", "rejected", "too short")),
        (("E", "rejected", "can't read"), ("E", "rejected", "can't write")),
    ],
)
def test_different_causes_have_different_fingerprints(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    assert fingerprint(*one) != fingerprint(*other)
