"""What tests of producers share: what is on the stream, who is connected, threads in step."""

from __future__ import annotations

import threading
from typing import Any

import redis

STREAM = "jobs"


def stored(client: redis.Redis) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in client.xrange(STREAM)]


def numbers(client: redis.Redis) -> list[int]:
    return [int(fields[b"n"]) for fields in stored(client)]


def ids(client: redis.Redis) -> list[str]:
    return [entry_id.decode() for entry_id, _ in client.xrange(STREAM)]


def calls_of(client: redis.Redis, command: str) -> int:
    return int(client.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))


def other_connections(client: redis.Redis) -> list[str]:
    own = str(client.client_id())
    return [one["id"] for one in client.client_list() if one["id"] != own]


def close_all_others(client: redis.Redis) -> None:
    """Have the server close every connection but this client's."""
    client.client_kill_filter(_type="normal", skipme=True)


def together(count: int, act: Any) -> None:
    """Run `act(number)` in `count` threads that begin at the same moment; none may fail."""
    barrier = threading.Barrier(count)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        barrier.wait(10)
        try:
            act(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []
