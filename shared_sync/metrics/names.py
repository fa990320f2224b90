"""The names of a registry's metrics: of which kind each is, and which labels it has."""

from __future__ import annotations

import re
from typing import Final

from shared_sync.errors import ConfigurationError
from shared_sync.metrics.labels import MAX_LABEL_SETS, LabelSet, shown

MAX_ERROR_TYPES: Final = 100
"""Error types that are distinguished; the others count as the type "other" of their category."""

ERRORS: Final = "errors"
ERRORS_PREFIX: Final = "errors."
"""In front of the type of an error, in the name of a counter."""

_RESERVED: Final = (
    "instance_id",
    "timestamp",
    "window_seconds",
    "total_errors",
    "errors_by_category",
)
"""Names in the JSON that no metric may have."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,200}")
_UNIT_SUFFIX: Final = re.compile(r"(?<=.)(?:_ms|_milliseconds|_seconds)+$")


class MetricNames:
    """Knows which names are taken. Not thread-safe: the caller holds a lock."""

    def __init__(self) -> None:
        self._kinds = dict.fromkeys(_RESERVED, "built-in value")
        self._label_names: dict[str, tuple[str, ...]] = {ERRORS: ("category", "type")}
        self._label_sets: dict[str, set[LabelSet]] = {}

    def claim(self, name: str, kind: str) -> str:
        """Fix the kind of a metric for ever, and return its name.

        Raises ConfigurationError if the name cannot be one, or is one of another kind.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"a metric's name is 1 to 200 ASCII letters, digits and _ . : -, not {shown(name)}"
            )
        if name.startswith(ERRORS_PREFIX):
            raise ConfigurationError(f"{name!r} is a number of errors and cannot be a {kind}")
        name = str.__str__(name)  # a member of an Enum would be shown as another text
        known = self._kinds.setdefault(name, kind)
        if known == "ratio" and kind == "gauge":
            self._kinds[name] = kind  # a gauge takes the place of a ratio
        elif known != kind:
            raise ConfigurationError(
                f"{name!r} is a {known} already and cannot be a {kind} too; choose another name"
            )
        return name

    def is_gauge(self, name: str) -> bool:
        """Return whether the name is that of a gauge."""
        return self._kinds.get(name) == "gauge"

    def counters(self) -> tuple[str, ...]:
        """Return the names of all counters."""
        return tuple(name for name, kind in self._kinds.items() if kind == "counter")

    def kinds(self) -> dict[str, str]:
        """Return the kind of each name that is taken."""
        return dict(self._kinds)

    def fix_labels(self, metric: str, names: tuple[str, ...]) -> None:
        """Fix the labels of a metric; raises ConfigurationError if it has others already."""
        known = self._label_names.setdefault(metric, names)
        if names != known:
            raise ConfigurationError(
                f"{metric!r} has the labels {', '.join(known)}, not {', '.join(names)}; "
                "use the same in every call"
            )

    def admit(self, metric: str, labels: LabelSet) -> bool:
        """Return whether the label set is distinguished; False if the metric has enough others."""
        known = self._label_sets.setdefault(metric, set())
        if labels in known:
            return True
        if len(known) >= (MAX_ERROR_TYPES if metric == ERRORS else MAX_LABEL_SETS):
            return False
        known.add(labels)
        return True


def without_unit(name: str) -> str:
    """Return the name of a duration without a unit at its end: all durations are in seconds."""
    return _UNIT_SUFFIX.sub("", name)
