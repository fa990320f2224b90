"""The series of a registry: their names, kinds and labels, and their values under one lock."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from shared_sync.common.fork import renew_lock_in_forks
from shared_sync.common.guarded import Logger
from shared_sync.errors import ConfigurationError
from shared_sync.metrics.catalogue import KINDS, REJECTED, Kind, MetricDescription, Ratio
from shared_sync.metrics.counter_window import CounterWindow
from shared_sync.metrics.error_categories import Categories
from shared_sync.metrics.histogram import SlidingHistogram
from shared_sync.metrics.labels import (
    OTHER,
    Labels,
    LabelSet,
    check_name,
    clean,
    label_set,
    other_label_set,
)
from shared_sync.metrics.names import ERRORS, ERRORS_PREFIX, MetricNames, without_unit
from shared_sync.metrics.rejections import Rejections

DROPPED: Final = "metrics_dropped_label_sets"
"""Counter of the recordings whose label set is one too many."""

SeriesKey: TypeAlias = "str | tuple[str, LabelSet]"
"""The name of a metric, for its series without labels, or the name and the labels."""

_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_.:-]")
_UNIT_NAME: Final = re.compile(r"[A-Za-z0-9_]{0,50}")


@dataclass(frozen=True, slots=True)
class SeriesCopy:
    """All series of a registry at one moment. Nobody writes to it any more."""

    counters: Mapping[SeriesKey, float]
    counter_base: Mapping[SeriesKey, float]
    """What the counters stood at when the window began, which was at `counter_base_at`."""
    counter_base_at: float
    counter_names: tuple[str, ...]
    gauges: Mapping[SeriesKey, float]
    durations: Mapping[SeriesKey, SlidingHistogram]
    newest: Mapping[str, float | None]
    """The newest value of each duration."""
    distributions: frozenset[str]
    """Those of the durations that are plain numbers."""
    ratios: Mapping[str, Ratio]
    about: dict[str, MetricDescription]
    by_consumers: Mapping[str, float]
    """What consumers have recorded: by how much they increased each counter, and how many values of
    each duration."""


class SeriesStore:
    """The series of one registry, which are declared here and written to by a subclass.

    Any thread may call any method. All values are guarded by one lock, so that what is recorded
    together is read together. While the lock is held for a recording, nothing is called: in a call
    Python may switch to another thread, and all that record would wait for one that does not run.
    """

    def __init__(
        self,
        *,
        window_seconds: float,
        clock: Callable[[], float],
        strict: bool,
        logger: Logger | None,
    ) -> None:
        # Fixed after construction.
        self._window_seconds = window_seconds
        self._clock = clock
        self._started = clock()
        self._categories = Categories()  # guards itself
        self._rejections = Rejections(strict=strict, logger=logger, count=self._count_rejection)
        self._reject = self._rejections.add
        # Guarded by the lock. Series are only ever added, so that looking for one needs no lock.
        # The lock is re-entrant, because a signal handler or a finalizer may record while its own
        # thread is in here.
        self._lock = threading.RLock()
        self._counters: dict[SeriesKey, float] = {}
        self._counter_window: CounterWindow[SeriesKey] = CounterWindow(
            window_seconds, self._started
        )
        self._gauges: dict[SeriesKey, float] = {}
        self._durations: dict[SeriesKey, SlidingHistogram] = {}
        self._durations_as_spelled: dict[SeriesKey, SlidingHistogram] = {}  # unit kept or dropped
        self._newest: dict[str, list[float | None]] = {}  # of each duration
        self._distributions: set[str] = set()
        self._ratios: dict[str, Ratio] = {}
        self._about: dict[str, MetricDescription] = {}
        self._by_consumers: dict[str, float] = {}
        self._names = MetricNames()
        # Written one entry at a time or as a whole, which is atomic; any thread may read.
        self._error_keys: dict[type[BaseException], SeriesKey] = {}
        renew_lock_in_forks(self)

    # --- declaring ---

    def declare(
        self,
        name: str,
        kind: Kind,
        description: str,
        *,
        unit: str = "",
        labels: Iterable[str] = (),
    ) -> None:
        """Declare a metric before it is recorded.

        `kind` is "counter", "gauge", "duration", or "distribution" for `record_size`.

        It is shown from now on, a counter or gauge at zero; Prometheus gets a duration once it was
        recorded. With the names of its `labels` given, each label set is
        shown from its first recording on. `unit` is the unit of the recorded numbers: "seconds",
        "bytes", "milliseconds", "megabytes", "percent" or a word of your own. Prometheus gets them
        in base units. Durations are always recorded in seconds. The same declaration may be
        repeated.

        Raises ConfigurationError for one that cannot be, or that contradicts an earlier one.
        """
        if kind not in KINDS:
            raise ConfigurationError(f"kind must be one of {', '.join(KINDS)}; not {kind!r}")
        if not isinstance(description, str):
            raise ConfigurationError(f"the description of {name!r} is a text, not {description!r}")
        if not isinstance(unit, str) or not _UNIT_NAME.fullmatch(unit):
            raise ConfigurationError(f"the unit of {name!r} is a word, such as bytes; not {unit!r}")
        if kind == "duration" and isinstance(name, str):
            name, unit = without_unit(name), "seconds"
        self._declare(MetricDescription(name, kind, clean(description), unit), labels)

    def declare_ratio(self, name: str, part: str, rest: str, description: str = "") -> None:
        """Show the ratio of two counters: `part` / (`part` + `rest`).

        It covers the last `window_seconds`, and is None if neither counter has grown within them.
        A gauge of the same name takes its place. Raises ConfigurationError for names that cannot
        be, and for a declaration that contradicts an earlier one.
        """
        text = clean(description) or f"{part} / ({part} + {rest})."
        self._declare_ratio(Ratio(name, part, rest, text))

    def _declare_ratio(self, ratio: Ratio) -> None:
        for counter in (ratio.part, ratio.rest):
            self._new_counter(counter, None)
        with self._lock:
            if not self._names.is_gauge(ratio.name):
                self._names.claim(ratio.name, "ratio")
            known = self._ratios.setdefault(ratio.name, ratio)
            if known != ratio:
                raise ConfigurationError(
                    f"{ratio.name!r} is declared already, as {known.part} against {known.rest}: "
                    f"{known.help!r}"
                )

    def _declare(self, metric: MetricDescription, labels: Iterable[str] = ()) -> None:
        if isinstance(labels, str):
            raise ConfigurationError(f"labels of {metric.name!r} are several names: ({labels!r},)")
        names = tuple(sorted(labels))
        for name in names:
            check_name(metric.name, name)
        with self._lock:
            self._names.claim(metric.name, metric.kind)
            known = self._about.setdefault(metric.name, metric)
            if known != metric:
                raise ConfigurationError(
                    f"{metric.name!r} is declared already, as {known.kind} of unit "
                    f"{known.unit!r}: {known.help!r}"
                )
            if names:
                self._names.fix_labels(metric.name, names)
            if metric.kind in ("duration", "distribution"):
                self._newest.setdefault(metric.name, [None])
        if names or metric.name == ERRORS:
            return
        if metric.kind == "counter":
            self._new_counter(metric.name, None)
        elif metric.kind == "gauge":
            key = self._gauge_key(metric.name, None)
            with self._lock:
                self._gauges.setdefault(key, 0)
        elif metric.kind == "duration":
            self._new_duration(metric.name, None)
        else:
            self._new_distribution(metric.name, None)

    # --- finding or making the series of a recording ---

    def _new_counter(self, name: str, labels: Labels) -> SeriesKey:
        """Return the key to count under; make the series unless it exists."""
        if isinstance(name, str) and (name == ERRORS or name.startswith(ERRORS_PREFIX)):
            if labels:
                raise ConfigurationError(f"{name!r} has labels of its own, category and type")
            error_type = name[len(ERRORS_PREFIX) :]
            return self._error_key(self._categories.of_name(error_type), error_type)
        checked = label_set(name, labels) if labels is not None else ()
        with self._lock:
            name = self._names.claim(name, "counter")
            key = self._key(name, checked)
            self._counters.setdefault(key, 0)
        return key

    def _new_error(self, kind: type[BaseException]) -> SeriesKey:
        """Return the key to count errors of this type under; remember it, unless it is "other"."""
        error_keys = self._error_keys  # a category that is registered meanwhile replaces it
        key = self._error_key(self._categories.of(kind), kind.__name__)
        if ("type", OTHER) not in key[1]:
            error_keys[kind] = key
        return key

    def _error_key(self, category: str, error_type: str) -> SeriesKey:
        """Return the key of an error. Odd type names are cleaned: counting errors must not fail."""
        error_type = _NOT_IN_NAMES.sub("_", error_type)[:100] or OTHER
        key = (ERRORS, (("category", category), ("type", error_type)))
        with self._lock:
            is_new = key not in self._counters and error_type != OTHER
            if is_new and not self._names.admit(ERRORS, key[1]):
                key = (ERRORS, (("category", category), ("type", OTHER)))
                self._counters[DROPPED] += 1
            self._counters.setdefault(key, 0)
        return key

    def _count_rejection(self, name: object) -> bool:
        """Count a value that was dropped; return whether it is the first of its metric."""
        shown = _NOT_IN_NAMES.sub("_", name)[:100] if isinstance(name, str) else ""
        with self._lock:
            key = self._key(REJECTED.name, (("name", shown or OTHER),))
            is_first = key not in self._counters
            self._counters[key] = self._counters.get(key, 0) + 1
        return is_first

    def _gauge_key(self, name: str, labels: Labels) -> SeriesKey:
        """Return the key of a gauge, which gets a value only from the caller."""
        if labels is None and isinstance(name, str) and name in self._gauges:
            return name
        checked = label_set(name, labels) if labels is not None else ()
        with self._lock:
            return self._key(self._names.claim(name, "gauge"), checked)

    def _new_duration(self, name: str, labels: Labels, *, recordings: int = 1) -> SlidingHistogram:
        """Return the series; make it unless it exists.

        If its label set is one too many, `recordings` are counted as dropped.
        """
        if labels is None and isinstance(name, str) and name in self._durations_as_spelled:
            return self._durations_as_spelled[name]
        now = self._clock()
        checked = label_set(name, labels) if labels is not None else ()
        with self._lock:
            metric = self._names.claim(
                without_unit(name) if isinstance(name, str) else name, "duration"
            )
            name = self._names.claim(name, "duration")
            key = self._key(metric, checked, recordings)
            series = self._histogram(metric, key, now)
            if key == ((metric, checked) if checked else metric):
                self._durations_as_spelled[(name, checked) if checked else name] = series
        return series

    def _new_distribution(self, name: str, labels: Labels) -> SlidingHistogram:
        """Return the series of a distribution; make it unless it exists."""
        now = self._clock()
        checked = label_set(name, labels) if labels is not None else ()
        with self._lock:
            metric = self._names.claim(name, "distribution")
            self._distributions.add(metric)
            return self._histogram(metric, self._key(metric, checked), now)

    def _histogram(self, metric: str, key: SeriesKey, now: float) -> SlidingHistogram:
        """Return the histogram of a key; make it unless it exists. The caller holds the lock."""
        if key not in self._durations:
            newest = self._newest.setdefault(metric, [None])
            self._durations[key] = SlidingHistogram(self._window_seconds, now, newest)
        return self._durations[key]

    def _key(self, metric: str, labels: LabelSet, recordings: int = 1) -> SeriesKey:
        """Return the key for these labels, or for "other". The caller holds the lock."""
        if not labels:
            return metric
        self._names.fix_labels(metric, tuple(name for name, _ in labels))
        if self._names.admit(metric, labels):
            return (metric, labels)
        self._counters[DROPPED] += recordings
        return (metric, other_label_set(labels))

    # --- reading ---

    def _copy(self, now: float) -> SeriesCopy:
        """Return a copy of everything. Sums and sorting are left to those who read it."""
        with self._lock:
            counters = self._counters.copy()
            base_at, base = self._counter_window.base(now)
            copy = SeriesCopy(
                counters=counters,
                counter_base=base,
                counter_base_at=base_at,
                counter_names=self._names.counters(),
                gauges=self._gauges.copy(),
                durations={key: series.copy() for key, series in list(self._durations.items())},
                distributions=frozenset(self._distributions),
                newest={name: shared[0] for name, shared in list(self._newest.items())},
                ratios=self._ratios.copy(),
                about=self._about.copy(),
                by_consumers=self._by_consumers.copy(),
            )
            if self._counter_window.is_due(now):
                self._counter_window.add(now, counters)
        return copy

    def _remember_totals(self) -> None:
        """Remember what the counters stand at, if it is time to: rates need it."""
        with self._lock:
            now = self._clock()
            if self._counter_window.is_due(now):
                self._counter_window.add(now, self._counters.copy())
