"""The options of a message, as one field of it."""

from __future__ import annotations

import json

import pytest

from shared_sync.errors import InvalidMessage
from shared_sync.protocol.job_options import OPTIONS, JobOptions, check_names

ALL = JobOptions("{jobs}:replies:ab12", "scheduled-1700000000000-1", 30.5, "00-ab-cd-01")


@pytest.mark.parametrize("options", [JobOptions(), JobOptions(expires_seconds=0.5), ALL])
def test_options_are_read_as_they_were_written(options: JobOptions) -> None:
    assert JobOptions.parse(options.to_item()) == options
    assert JobOptions.parse(options.to_item().decode()) == options


def test_only_options_that_are_set_are_written() -> None:
    assert json.loads(JobOptions(reply_to="{s}:replies:1").to_item()) == {
        "reply_to": "{s}:replies:1"
    }


def test_names_of_later_releases_are_ignored() -> None:
    assert JobOptions.parse(b'{"id": "1", "priority": [3]}') == JobOptions(id="1")


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (b"", "no JSON object"),
        (b"\xff", "no JSON object"),
        (b"[]", "no JSON object"),
        ("[" * 100_000, "no JSON object"),
        ('{"reply_to": 3}', "'reply_to' that is no text: 3"),
        ('{"id": null}', "'id' that is no text"),
        ('{"expires_seconds": "3"}', "'expires_seconds' that is no number above 0"),
        ('{"expires_seconds": 0}', "no number above 0"),
        ('{"expires_seconds": true}', "no number above 0"),
        ('{"expires_seconds": NaN}', "no number above 0"),
        (f'{{"expires_seconds": 1{"0" * 400}}}', "too large: 1000"),
        ('{"id": "a\\ud800"}', "'id' that is no valid Unicode"),
        ('{"reply_to": "{jobs}:replies:\\ud800"}', "'reply_to' that is no valid Unicode"),
        ('{"traceparent": "\\ud800"}', "'traceparent' that is no valid Unicode"),
    ],
)
def test_options_that_cannot_be_read_are_refused_with_the_field_and_the_remedy(
    value: str | bytes, fault: str
) -> None:
    with pytest.raises(InvalidMessage, match=fault) as caught:
        JobOptions.parse(value)
    assert caught.value.field == OPTIONS
    assert "publish the message with RedisStreamProducer" in str(caught.value)


@pytest.mark.parametrize("name", ["shared_sync.options", "shared_sync.types", "dead.id"])
def test_names_of_the_library_are_refused(name: str) -> None:
    with pytest.raises(InvalidMessage, match="give it another name") as caught:
        check_names({"text": "a", name: "b"})
    assert caught.value.field == name
    check_names({"text": "a", "shared": "b", 3: "c"})
