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
    assert main([*command, "scheduled-0", "--status", "--json"]) == 1
    *_, unknown = map(json.loads, capsys.readouterr().out.splitlines())
    assert unknown == {"id": "scheduled-0", "state": "unknown"}
    assert client.zrange("{jobs}:cancelled", 0, -1) == [message_id.encode()]
