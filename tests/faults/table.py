"""The table of faults: each test adds what its fault cost, and pytest prints the table at last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import pytest
from faults.durations import LEASE_SECONDS, REPLY_SECONDS
from faults.ledger import Ledger
from helpers import eventually

from shared_sync import RedisStreamConsumer

LONGEST_RESUME_SECONDS = 15.0
"""A lease, a grace, a lost reply and the pauses between tries, on a machine that is busy."""

_PROPERTY = "fault"
"""Rows travel as properties of a test's report, because the test may run in another process."""


@dataclass(frozen=True)
class Row:
    """What a fault cost."""

    server: str
    fault: str
    messages: int
    lost: int
    published_twice: int
    run_twice: int
    resumed_seconds: float | None
    note: str


class FaultTable:
    """Takes the rows of a test, and fails a test whose fault cost more than it may."""

    def __init__(self, test: pytest.Item) -> None:
        self._test = test

    def enter(self, row: Row) -> None:
        """Write down a row, and fail if it says that something was lost or published twice."""
        self._write(row)
        assert (row.lost, row.published_twice) == (0, 0)

    def add(
        self, fault: str, ledger: Ledger, *consumers: RedisStreamConsumer, note: str = ""
    ) -> Row:
        """Wait until all is settled, write down what the fault cost, and check it.

        Nothing may be lost, no result be published twice, and every consumer must run again by
        itself with all of its readers.
        """
        try:
            ledger.settle()
        finally:
            row = Row(
                server=ledger.server(),
                fault=fault,
                messages=len(ledger.acknowledged),
                lost=len(ledger.unfinished()),
                published_twice=len(ledger.published_twice()),
                run_twice=len(ledger.run_twice()),
                resumed_seconds=ledger.resumed_seconds(),
                note=f"Redis itself lost {len(ledger.destroyed)}" if ledger.destroyed else note,
            )
            self._write(row)
        assert row.lost == 0, f"lost: {sorted(ledger.unfinished())}"
        assert row.published_twice == 0, f"twice: {sorted(ledger.published_twice())}"
        assert row.resumed_seconds is not None, "nothing ended after the fault"
        assert row.resumed_seconds < LONGEST_RESUME_SECONDS
        for consumer in consumers:
            health = consumer.get_health_data()
            assert consumer.state == "running"
            readers = consumer.get_views()["readers"]()["readers"]
            assert health["readers_alive"] == len(readers) > 0
            eventually(lambda consumer=consumer: consumer.redis_connected)
        return row

    def _write(self, row: Row) -> None:
        self._test.user_properties.append((_PROPERTY, asdict(row)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the rows of all tests, in the order of the tests in their files."""
    calls = [
        report
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
    ]
    rows = [
        Row(**value)
        for report in sorted(calls, key=lambda report: report.location[:2])
        for name, value in report.user_properties
        if name == _PROPERTY
    ]
    if rows:
        terminalreporter.section("faults")
        terminalreporter.write_line(
            f"with leases of {LEASE_SECONDS:g} s and replies waited for {REPLY_SECONDS:g} s; "
            "resumed: the next message was finished"
        )
        for line in _lines(rows):
            terminalreporter.write_line(line)


def _lines(rows: list[Row]) -> Iterator[str]:
    """The rows, one server after the other."""
    width = max(len(row.fault) for row in rows)
    for server in dict.fromkeys(row.server for row in rows):
        yield server
        yield f"  {'fault':{width}}  messages  lost  twice published  twice run  resumed after"
        for row in rows:
            if row.server == server:
                resumed = "never" if row.resumed_seconds is None else f"{row.resumed_seconds:.2f} s"
                yield (
                    f"  {row.fault:{width}}  {row.messages:8}  {row.lost:4}  "
                    f"{row.published_twice:15}  {row.run_twice:9}  {resumed:>13}  {row.note}"
                ).rstrip()
