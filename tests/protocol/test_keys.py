"""The names of the keys of a stream and its groups."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from shared_sync.errors import ConfigurationError
from shared_sync.protocol.keys import Keys


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
    names = (keys.stream, keys.presence, keys.due, keys.history, keys.dead)
    assert len(set(names)) == 5
    assert len({key_slot(name.encode()) for name in names}) == 1


def test_keys_are_named_after_the_stream_and_the_group() -> None:
    assert Keys.of("jobs", "g").due == "{jobs}:g:due"
    assert Keys.of("jobs:{eu}", "g").due == "jobs:{eu}:g:due"


@pytest.mark.parametrize("stream", ["jobs{", "jobs}", "{}", "a{}b", "}a{"])
def test_a_brace_without_a_whole_hash_tag_is_refused_with_the_remedy(stream: str) -> None:
    with pytest.raises(ConfigurationError, match="hash tag"):
        Keys.of(stream, "workers")


@pytest.mark.parametrize(("stream", "group"), [("", "g"), ("s", "")])
def test_empty_names_are_refused(stream: str, group: str) -> None:
    with pytest.raises(ConfigurationError):
        Keys.of(stream, group)
