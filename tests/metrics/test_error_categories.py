"""Errors are sorted by what they are, never by what they say."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import subprocess
import urllib.error
from typing import Any

import pytest
import redis

from shared_sync.errors import InvalidMessage, QueueFull, RedisAccessDenied, Reject
from shared_sync.metrics.error_categories import CATEGORIES, Categories


def of_elsewhere(module: str, name: str, *bases: type) -> Any:
    """A type as another library defines it, which need not be installed for that."""
    return type(name, bases or (RuntimeError,), {"__module__": module, "__qualname__": name})


@pytest.mark.parametrize(
    ("error_type", "category"),
    [
        (ValueError, "bad_input"),
        (UnicodeDecodeError, "bad_input"),
        (json.JSONDecodeError, "bad_input"),
        (EOFError, "bad_input"),
        (Reject, "bad_input"),
        (InvalidMessage, "bad_input"),
        (TimeoutError, "timeout"),
        (socket.timeout, "timeout"),
        (concurrent.futures.TimeoutError, "timeout"),
        (subprocess.TimeoutExpired, "timeout"),
        (redis.exceptions.TimeoutError, "timeout"),
        (of_elsewhere("requests.exceptions", "ReadTimeout"), "internal"),
        (
            of_elsewhere(
                "requests.exceptions", "Timeout", of_elsewhere("requests.exceptions", "Base")
            ),
            "timeout",
        ),
        (MemoryError, "out_of_memory"),
        (of_elsewhere("torch", "OutOfMemoryError"), "out_of_memory"),
        (of_elsewhere("torch.cuda", "OutOfMemoryError"), "out_of_memory"),
        (of_elsewhere("torch", "AcceleratorError"), "device"),
        (of_elsewhere("mine", "OutOfMemoryError"), "internal"),
        (ConnectionResetError, "dependency"),
        (FileNotFoundError, "dependency"),
        (urllib.error.URLError, "dependency"),
        (redis.exceptions.ResponseError, "dependency"),
        (RedisAccessDenied, "dependency"),
        (QueueFull, "dependency"),
        (KeyError, "internal"),
        (ZeroDivisionError, "internal"),
        (SystemExit, "internal"),
    ],
)
def test_an_error_has_the_category_of_its_nearest_known_ancestor(
    error_type: type[BaseException], category: str
) -> None:
    assert Categories().of(error_type) == category
    assert category in CATEGORIES


def test_what_is_registered_comes_before_what_is_known() -> None:
    categories = Categories()
    categories.register(OSError, "device")
    categories.register(ConnectionError, "internal")
    assert categories.of(OSError) == categories.of(PermissionError) == "device"
    assert categories.of(ConnectionResetError) == "internal"
    assert categories.of(TimeoutError) == "timeout", "which is nearer than OSError"


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("ValueError", "bad_input"),
        ("ConnectionResetError", "dependency"),
        ("RedisUnavailable", "dependency"),
        ("TimeoutExpired", "timeout"),
        ("deadline", "timeout"),
        ("MemoryError", "out_of_memory"),
        ("print", "internal"),
        ("int", "internal"),
        ("NeverHeardOf", "internal"),
        ("", "internal"),
    ],
)
def test_a_name_alone_has_the_category_of_the_type_that_is_called_so(
    name: str, category: str
) -> None:
    assert Categories().of_name(name) == category
