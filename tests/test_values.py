"""Values that JSON does not know have a form, or are named with their place."""

from __future__ import annotations

import asyncio
import datetime
import functools
import io
import json
import sys
from collections import OrderedDict, namedtuple
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, IntEnum
from multiprocessing.pool import AsyncResult
from pathlib import Path, PureWindowsPath
from types import MappingProxyType, SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from shared_sync import values
from shared_sync.errors import InvalidMessage
from shared_sync.message import encode_fields, encode_value

UTC = datetime.timezone.utc


class Color(Enum):
    RED = "red"
    AT = datetime.date(2026, 1, 2)


class Name(str, Enum):
    ANNA = "anna"


class Level(IntEnum):
    HIGH = 3


@dataclass
class Segment:
    text: str
    score: object
    words: list[str] = field(default_factory=list)


Pair = namedtuple("Pair", "a b")


class generic:  # noqa: N801 - as the base class of numpy's scalars
    """Stands for numpy, which the library does not need."""

    def __init__(self, value: Any, kind: str) -> None:
        self.value = value
        self.dtype = SimpleNamespace(kind=kind)

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __str__(self) -> str:
        return str(self.value)


generic.__module__ = "numpy"


class Float32(generic):
    """A scalar, as numpy derives it."""


FORMS: list[tuple[object, object]] = [
    (datetime.datetime(2026, 1, 2, 3, 4, 5, 6, UTC), "2026-01-02T03:04:05.000006+00:00"),
    (datetime.datetime(2026, 1, 2), "2026-01-02T00:00:00"),
    (datetime.date(2026, 1, 2), "2026-01-02"),
    (datetime.time(3, 4), "03:04:00"),
    (datetime.timedelta(minutes=1, milliseconds=500), 60.5),
    (Path("/a/b.wav"), "/a/b.wav"),
    (PureWindowsPath("C:/a"), "C:\\a"),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (Decimal("1.10"), "1.10"),
    (Color.RED, "red"),
    (Color.AT, "2026-01-02"),
    (Name.ANNA, "anna"),
    (Level.HIGH, 3),
    (Segment("a", Decimal(1), ["x"]), {"text": "a", "score": "1", "words": ["x"]}),
    (MappingProxyType({"a": Path("b")}), {"a": "b"}),
    (OrderedDict(a=1), {"a": 1}),
    (Pair(1, "b"), [1, "b"]),
    ({"b", "a", "c"}, ["a", "b", "c"]),
    (frozenset({10, 9}), [9, 10]),
    ({1, "a", None}, ["a", 1, None]),
    (Float32(0.5, "f"), 0.5),
    (Float32(7, "u"), 7),
    (Float32(1, "b"), True),
    (Float32("2026-01-02T03:04:05.000000000", "M"), "2026-01-02T03:04:05.000000000"),
]


@pytest.mark.parametrize(
    "number", [0, -7, 10**40, True, False, 0.1, -0.0, 1e22, 1e16, 5e-324, 123456789.123]
)
def test_a_number_is_stored_as_json_writes_it(number: float) -> None:
    assert encode_value("n", number) == json.dumps(number).encode()


@pytest.mark.parametrize(("value", "form"), FORMS, ids=lambda value: type(value).__name__)
def test_a_value_has_its_form_as_a_field_and_within_one(value: object, form: object) -> None:
    stored = encode_value("field", value).decode()
    assert stored == (form if isinstance(form, str) else json.dumps(form))
    assert json.loads(encode_value("field", [{"within": value}])) == [{"within": form}]


def test_real_scalars_of_numpy_become_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    scalars = [
        (numpy.float32(0.5), 0.5),
        (numpy.float64(0.5), 0.5),
        (numpy.longdouble(0.5), 0.5),
        (numpy.int64(-7), -7),
        (numpy.uint8(7), 7),
        (numpy.bool_(True), True),
        (numpy.str_("text"), "text"),
        (numpy.datetime64("2026-01-02T03:04:05", "ns"), "2026-01-02T03:04:05.000000000"),
    ]
    for scalar, form in scalars:
        assert json.loads(encode_value("field", {"score": scalar})) == {"score": form}
    for other in (
        numpy.array([1]),
        numpy.complex64(1),
        numpy.datetime64("NaT"),
        numpy.float32("nan"),
    ):
        with pytest.raises(InvalidMessage, match=r"segments\[0\] is "):
            encode_fields({"segments": [other]})


# --- what has none ----------------------------------------------------------------------------


@dataclass
class Unset:
    text: str = field(init=False)


class Timeless(datetime.datetime):
    def isoformat(self, *_: Any, **__: Any) -> str:
        raise ValueError("out of range")


CIRCULAR: list[object] = []
CIRCULAR.append({"again": CIRCULAR})


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([0, {"score": float("nan")}], r"audio\[1\]\.score is nan"),
        ([Float32(float("inf"), "f")], r"audio\[0\] is inf"),
        ({"a": {"b c": object()}}, r"audio\.a\['b c'\] is of type object"),
        ({"a": {1: {2: object()}}}, r"audio\.a\[1\]\[2\] is of type object"),
        (Segment("a", {1, 1j}), r"audio\.score\[\d\] is of type complex"),
        ({"raw": b"x"}, r"audio\.raw is of type bytes.*base64"),
        ([bytearray(b"x")], r"audio\[0\] is of type bytearray"),
        ({"a": {b"key": 1}}, r"audio\.a has the key b'key' of type bytes"),
        ({"a": {UUID(int=1): 1}}, r"audio\.a has the key UUID.* of type UUID"),
        ({"text": ["fine", "\ud800"]}, r"audio\.text\[1\] is text that is not valid Unicode"),
        (Path("\udcff"), r"audio is text that is not valid Unicode"),
        (CIRCULAR, r"audio\[0\]\.again contains itself"),
        ([Decimal("NaN")], r"audio\[0\] is of type Decimal"),
        ([Float32(1j, "c")], r"audio\[0\] is of type Float32"),
        ([Float32("NaT", "M")], r"audio\[0\] is of type Float32"),
        ([Timeless(2026, 1, 2)], r"audio\[0\] is of type Timeless.*ValueError: out of range"),
        ([Unset()], r"audio\[0\] is of type Unset.*AttributeError"),
        ([Segment], r"audio\[0\] is of type type"),
        ([range(3)], r"audio\[0\] is of type range"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_form_is_named_by_its_place_and_type(value: object, told: str) -> None:
    with pytest.raises(InvalidMessage, match=told) as caught:
        encode_fields({"fine": 1, "audio": value})
    assert caught.value.field == "audio"
    str(caught.value).encode()  # an error's text can always be logged


def test_a_value_that_is_nested_too_deeply_is_refused() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(InvalidMessage, match="audio is nested too deeply"):
        encode_fields({"audio": nested})


def test_a_number_of_too_many_digits_is_refused() -> None:
    if not hasattr(sys, "get_int_max_str_digits"):
        pytest.skip("this Python writes numbers of any length")
    with pytest.raises(InvalidMessage, match=r"'audio'.*digits"):
        encode_fields({"audio": [10**5000]})


def test_memory_that_runs_out_is_not_the_values_fault() -> None:
    class Huge(Mapping[str, int]):
        def __getitem__(self, key: str) -> int:
            raise MemoryError

        def __iter__(self) -> Iterator[str]:
            yield "a"

        def __len__(self) -> int:
            return 1

    with pytest.raises(MemoryError):
        encode_value("field", Huge())


# --- what has not run -------------------------------------------------------------------------


def _generate() -> Iterator[int]:
    yield 1


async def _run() -> None: ...


async def _generate_slowly() -> AsyncIterator[int]:
    yield 1


def _asyncio_future() -> object:
    loop = asyncio.new_event_loop()
    try:
        return loop.create_future()
    finally:
        loop.close()


class PoolResult(AsyncResult):  # type: ignore[type-arg]
    """A result of a multiprocessing pool, without a pool."""

    def __init__(self) -> None:
        pass


UNSTARTED: list[Callable[[], object]] = [
    _generate,
    _run,
    _generate_slowly,
    Future,
    _asyncio_future,
    PoolResult,
    lambda: map(str, []),
    lambda: filter(None, []),
    lambda: zip([], [], strict=True),
    lambda: iter([]),
    lambda: reversed([]),
    lambda: _generate,
    lambda: functools.partial(print),
    lambda: "text".upper,
]


@pytest.mark.parametrize("make", UNSTARTED)
@pytest.mark.parametrize(
    ("wrap", "place"),
    [
        (lambda value: value, "result"),
        (lambda value: (value, "info"), "result[0]"),
        (lambda value: {"segments": value}, "result.segments"),
        (lambda value: {"a": [{"b": Segment("x", value)}]}, "result.a[0].b.score"),
        (lambda value: Pair("x", value), "result[1]"),
        (lambda value: MappingProxyType({"a": value}), "result.a"),
    ],
)
def test_what_has_not_run_is_found_wherever_it_stands(
    make: Callable[[], object], wrap: Callable[[object], object], place: str
) -> None:
    result = wrap(make())
    assert not values.has_run(result)
    faults = values.find_unstarted("result", result)
    assert [fault.place for fault in faults] == [place]
    assert "has not run" in str(faults[0])
    fault = values.find_fault("result", result)
    assert fault is not None
    assert (fault.place, fault.reason) == (faults[0].place, faults[0].reason)
    values.close_unstarted(faults)


@pytest.mark.parametrize(
    "result",
    [
        None,
        "text",
        b"raw",
        0,
        {"text": "hello", "score": 0.5, "words": [{"w": "a"}, ("b", None)]},
        [],
        ((), {}),
    ],
)
def test_plain_results_have_run(result: object) -> None:
    assert values.has_run(result)


@pytest.mark.parametrize("result", [object(), {1, 2}, io.BytesIO(), range(3), Segment("a", 1)])
def test_results_of_other_types_have_run_too(result: object) -> None:
    assert values.find_unstarted("result", [result]) == []


def test_what_cannot_be_looked_into_is_no_promise() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert not values.has_run(nested)
    assert values.find_unstarted("result", nested) == []
