"""What the benchmarks print and keep: measurements, their bounds, and facts about the machine.

    python benchmarks/report.py benchmarks/results/consumer.json

prints what a benchmark has kept as the tables of benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

AUTO = "auto"


class Measurements:
    """For each worker and each quantity, the values of all rounds."""

    def __init__(self) -> None:
        self._values: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(
            lambda: defaultdict(list)
        )

    def add(self, label: str, values: Mapping[str, float]) -> None:
        """Add the values of one round, by the quantity's name."""
        for name, value in values.items():
            self._values[label][name].append(value)

    def median(self, label: str, name: str) -> float:
        """Return the median of all rounds. Raises `KeyError` if there was none."""
        return statistics.median(self._of(label, name))

    def highest(self, label: str, name: str) -> float:
        """Return the highest value of all rounds. Raises `KeyError` if there was none."""
        return max(self._of(label, name))

    def _of(self, label: str, name: str) -> list[float]:
        if label not in self._values or name not in self._values[label]:
            raise KeyError(label, name)
        return self._values[label][name]

    def to_dict(self) -> dict[str, dict[str, list[float]]]:
        return {label: dict(quantities) for label, quantities in self._values.items()}

    def show(self) -> None:
        """Print a line for each quantity: its median, and the lowest and highest of all rounds."""
        width = max((len(label) for label in self._values), default=0) + 2
        print(f"{'':{width}}{'':20}{'median':>12}{'lowest':>12}{'highest':>12}")
        for label, quantities in self._values.items():
            for name, values in quantities.items():
                cells = (statistics.median(values), min(values), max(values))
                print(f"{label:{width}}{name:20}" + "".join(f"{shown(v):>12}" for v in cells))


@dataclass(frozen=True)
class Check:
    """A measured value and its bound."""

    name: str
    value: float
    bound: float
    at_least: bool

    @property
    def held(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass(frozen=True)
class Bound:
    """What a value has to be: at least or at most a number."""

    name: str
    value: Callable[[Measurements], float]
    at_least: float | None = None
    at_most: float | None = None

    def check(self, measured: Measurements) -> Check | None:
        """Compare with what was measured; None if that was not measured."""
        try:
            value = self.value(measured)
        except KeyError:
            return None
        if self.at_least is not None:
            return Check(self.name, value, self.at_least, at_least=True)
        assert self.at_most is not None
        return Check(self.name, value, self.at_most, at_least=False)


def check_all(bounds: Iterable[Bound], measured: Measurements) -> list[Check]:
    """Return a check for each bound whose values were measured."""
    return [check for bound in bounds if (check := bound.check(measured)) is not None]


def show_checks(checks: Sequence[Check]) -> bool:
    """Print each check and whether all bounds held; return the latter."""
    if not checks:
        print("\nbounds: none is checked by what was measured")
        return True
    width = max((len(check.name) for check in checks), default=0) + 2
    print(f"\n{'':{width}}{'measured':>10}{'bound':>18}")
    for check in checks:
        bound = f"{'at least' if check.at_least else 'at most'} {shown(check.bound)}"
        missed = "" if check.held else "   MISSED"
        print(f"{check.name:{width}}{shown(check.value):>10}{bound:>18}{missed}")
    held = all(check.held for check in checks)
    print(f"\nbounds: {'held' if held else 'MISSED'}")
    return held


def show_and_keep(
    measured: Measurements,
    bounds: Iterable[Bound],
    facts: Mapping[str, object],
    path: Path | None,
) -> int:
    """Print everything, write it to a JSON file as well, and return the exit status.

    Without a path no file is written. The exit status is 1 if a bound was missed.
    """
    measured.show()
    checks = check_all(bounds, measured)
    held = show_checks(checks)
    print()
    for name, fact in facts.items():
        print(f"{name:<20}{fact}")
    if path is not None:
        report: dict[str, Any] = {
            **facts,
            "measurements": measured.to_dict(),
            "checks": [{**asdict(check), "held": check.held} for check in checks],
        }
        path.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if held else 1


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that several benchmarks have."""
    parser.add_argument(
        "--prefetch",
        type=lambda text: text if text == AUTO else int(text),
        default=AUTO,
        metavar="auto|N",
        help="where it is to be automatic; a number is for a release without automatic prefetch",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results there as well")
    parser.add_argument("--redis-server", type=Path, metavar="PATH")


def shown(value: float) -> str:
    """Return a number with three significant digits, and with all that it has before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of all values does not exceed."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


# --- tables in Markdown -------------------------------------------------------------------------


def markdown_of(report: Mapping[str, Any]) -> str:
    """Return a kept report as Markdown: the measurements, the bounds, and the facts.

    Labels that share a quantity are rows of one table.
    """
    measurements: Mapping[str, Mapping[str, Sequence[float]]] = report["measurements"]
    groups: list[tuple[list[str], list[str]]] = []  # quantities and labels
    for label, quantities in measurements.items():
        shared = (group for group in groups if not quantities.keys().isdisjoint(group[0]))
        columns, labels = next(shared, ([], []))
        if not labels:
            groups.append((columns, labels))
        columns += [name for name in quantities if name not in columns]
        labels.append(label)
    tables = []
    for columns, labels in groups:
        rows = [
            [label, *(_median_and_range(measurements[label].get(name, ())) for name in columns)]
            for label in labels
        ]
        tables.append(_table(["", *columns], rows))
    checks = [_check_row(check) for check in report["checks"]]
    tables.append(_table(["", "measured", "bound", ""], checks))
    facts = "; ".join(f"{name}: {fact}" for name, fact in report.items() if isinstance(fact, str))
    return "\n\n".join([*tables, textwrap.fill(f"{facts}.", 100, break_on_hyphens=False)])


def _median_and_range(values: Sequence[float]) -> str:
    if not values:
        return ""
    median = shown(statistics.median(values))
    return f"{median} ({shown(min(values))} to {shown(max(values))})" if values[1:] else median


def _check_row(check: Mapping[str, Any]) -> list[str]:
    bound = f"{'at least' if check['at_least'] else 'at most'} {shown(check['bound'])}"
    return [check["name"], shown(check["value"]), bound, "" if check["held"] else "missed"]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


if __name__ == "__main__":
    print(markdown_of(json.loads(Path(sys.argv[1]).read_text())))
