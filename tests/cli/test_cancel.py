"""Cancelling messages from the command line."""

from __future__ import annotations

import json

import pytest
import redis
from consumers import STREAM

from shared_sync import RedisStreamProducer
from shared_sync.__main__ import main


def test_the_command_prints_the_state_of_each_message_and_cancels_unfinished_ones(
    redis_url: str,
    producer: RedisStreamProducer,
    client: redis.Redis,
    capsys: pytest.CaptureFixture[str],
) -> None:
    message_id = producer.publish({"n": 1})
    command = ["cancel", "--redis-url", redis_url, "--stream", STREAM, message_id, "1-1"]
    expected = f"{message_id} waiting\n1-1 ended\n"
    assert main([*command, "--status"]) == 0
    assert capsys.readouterr().out == expected
    assert client.zcard("{jobs}:cancelled") == 0
    assert main(command) == 0
    assert capsys.readouterr().out == expected
    # Newer than all that the stream has had, and of no form that an id has.
    assert main([*command, "99999999999999-0", "--status", "--json", "scheduled-0"]) == 1
    *_, ahead, other = map(json.loads, capsys.readouterr().out.splitlines())
    assert ahead == {"id": "99999999999999-0", "state": "unknown"}
    assert other == {"id": "scheduled-0", "state": "unknown"}


def test_a_mistyped_stream_is_an_error_with_the_nearest_names(
    redis_url: str,
    producer: RedisStreamProducer,
    client: redis.Redis,
    capsys: pytest.CaptureFixture[str],
) -> None:
    message_id = producer.publish({"n": 1})
    assert main(["cancel", message_id, "--redis-url", redis_url, "--stream", "job"]) == 1
    out, err = capsys.readouterr()
    assert (out, "did you mean 'jobs'?" in err) == ("", True)
    assert producer.status(message_id) == "waiting"
    client.set("plain", "text")
    assert main(["cancel", message_id, "--redis-url", redis_url, "--stream", "plain"]) == 1
    assert "this name belongs to something else than a stream" in capsys.readouterr().err
