"""A key of another type is an error that names the key and the argument to change."""

from __future__ import annotations

import pytest
import redis
from protocol_client import KEYS

from shared_sync.connection.connection import Connection
from shared_sync.errors import ConfigurationError
from shared_sync.protocol import key_types

OPTIONAL = {KEYS.reports, KEYS.events}
"""Keys without which, or with something else in them, a worker works all the same."""


def test_keys_that_do_not_exist_are_well(connection: Connection) -> None:
    key_types.check(connection, KEYS, "results")


@pytest.mark.parametrize("key", [key for key in KEYS.all() if key not in OPTIONAL])
def test_each_key_of_the_group_is_checked(
    connection: Connection, client: redis.Redis, key: str
) -> None:
    client.set(key, "text")
    with pytest.raises(ConfigurationError, match=f"'{key}' .* stream_name or consumer_group"):
        key_types.check(connection, KEYS, "results")


def test_the_argument_to_change_is_the_result_stream_if_only_that_is_wrong(
    connection: Connection, client: redis.Redis
) -> None:
    client.set("results", "text")
    with pytest.raises(ConfigurationError, match=r"'results' .* choose another result_stream"):
        key_types.check(connection, KEYS, "results")
    key_types.check(connection, KEYS, None)
