"""The names of the keys of a stream and its groups."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from shared_sync.errors import ConfigurationError
from shared_sync.protocol.keys import (
    Keys,
    StreamKeys,
    age_seconds,
    cancelled_where_published,
    may_reply_to,
)


@pytest.mark.parametrize(
    "stream", ["jobs", "audio:jobs", "jobs:{eu}", "{a}{b}", "{}{b}", "a}{b}c", "{{a}}", "größe"]
)
@pytest.mark.parametrize("group", ["workers", "{group}", "gr{oup"])
def test_all_keys_of_a_stream_share_its_cluster_slot_or_the_stream_is_refused(
    stream: str, group: str
) -> None:
    try:
        keys = Keys.of(stream, group)
    except ConfigurationError:
        assert "{}" in stream
        return
    shared = StreamKeys.of(stream)
    names = (*keys.all(), shared.reply("ab12"), shared.published("a {key}"))
    assert len(set(names)) == len(names)
    assert len({key_slot(name.encode()) for name in names}) == 1


@pytest.mark.parametrize(
    ("entry_id", "age"),
    [
        ("1700000000000-0", 4.5),
        ("1700000004500-3", 0.0),
        ("1700000005500-0", 0.0),  # clocks that are compared over the network differ a little
        ("1700000005501-0", None),
        ("1514764800000-0", 1_700_000_004.5 - 1_514_764_800),
        ("1514764799999-0", None),
        ("1-1", None),
    ],
)
def test_an_id_says_the_age_of_its_entry_unless_it_was_chosen(
    entry_id: str, age: float | None
) -> None:
    assert age_seconds(entry_id, 1_700_000_004.5) == (None if age is None else pytest.approx(age))


def test_keys_are_named_after_the_stream_and_the_group() -> None:
    assert Keys.of("jobs", "g").due == "{jobs}:g:due"
    assert Keys.of("jobs:{eu}", "g").due == "jobs:{eu}:g:due"
    assert Keys.of("jobs", "g").cancelled == StreamKeys.of("jobs").cancelled == "{jobs}:cancelled"
    assert StreamKeys.of("jobs:{eu}").reply("ab12") == "jobs:{eu}:replies:ab12"


@pytest.mark.parametrize("stream", ["jobs{", "jobs}", "{}", "a{}b", "}a{"])
def test_a_brace_without_a_whole_hash_tag_is_refused_with_the_remedy(stream: str) -> None:
    with pytest.raises(ConfigurationError, match="hash tag"):
        Keys.of(stream, "workers")


@pytest.mark.parametrize(("stream", "group"), [("", "g"), ("s", "")])
def test_empty_names_are_refused(stream: str, group: str) -> None:
    with pytest.raises(ConfigurationError):
        Keys.of(stream, group)


def test_a_message_may_have_its_result_written_to_streams_of_replies_only() -> None:
    keys = StreamKeys.of("jobs:{eu}")
    assert may_reply_to(keys.stream, keys.reply("ab12"))
    assert may_reply_to(keys.stream, StreamKeys.of("next:{eu}").reply("ab12"))
    assert may_reply_to("jobs", StreamKeys.of("jobs").reply("ab12"))
    own = [keys.stream, *Keys.of("jobs:{eu}", "workers").all()]
    hidden = Keys.of("jobs:{eu}", "group:replies:").all()[1:12]
    foreign = [StreamKeys.of("jobs").reply("ab12"), "replies:ab12", ":replies:{eu}", "", "{eu}"]
    for name in (*own, *hidden, *foreign, keys.reply(""), "{}{eu}:replies:a"):
        assert not may_reply_to(keys.stream, name), name


def test_cancelled_jobs_are_looked_up_only_where_a_message_may_have_its_result_written() -> None:
    first = StreamKeys.of("first:{eu}")
    found = cancelled_where_published("next:{eu}", first.reply("ab12"))
    assert found == first.cancelled_forwarded
    for name in (StreamKeys.of("next:{eu}").reply("a"), "other:replies:a", ":replies:{eu}", ""):
        assert cancelled_where_published("next:{eu}", name) == "", name
