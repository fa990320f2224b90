"""What a child can import is named; what it cannot is refused, with what to do instead."""

from __future__ import annotations

import sys
import types
from functools import partial
from typing import Any

import child_processors
import pytest

from shared_sync.errors import ConfigurationError
from shared_sync.isolation.importable import importable


def local() -> Any:
    def inner(*_: object) -> None:
        return None

    return inner


class Callable:
    def __call__(self, *_: object) -> None:
        return None

    def method(self, *_: object) -> None:
        return None

    @staticmethod
    def static(*_: object) -> None:
        return None


@pytest.mark.parametrize(
    ("given", "path"),
    [
        (child_processors.answer, "child_processors:answer"),
        (child_processors.Closing, "child_processors:Closing"),
        ("package.module:Name.method", "package.module:Name.method"),
    ],
)
def test_functions_classes_and_import_paths_are_named(given: object, path: str) -> None:
    assert importable(given, "message_processor") == (path, None)


def test_a_function_within_a_class_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__, _this()))
    assert importable(Callable.static, "message_processor").path == f"{__name__}:Callable.static"


def _this() -> types.ModuleType:
    module = types.ModuleType(__name__)
    module.__dict__.update(globals())
    return module


@pytest.mark.parametrize(
    "given",
    [
        lambda *_: None,
        local(),
        partial(child_processors.answer, "1-0"),
        Callable(),
        Callable().method,
    ],
    ids=["lambda", "local", "partial", "object", "method"],
)
def test_what_a_child_cannot_import_is_refused(given: object) -> None:
    with pytest.raises(ConfigurationError) as refused:
        importable(given, "message_processor")
    text = str(refused.value)
    assert text.startswith("message_processor cannot be imported by a child process")
    assert "top level of a module" in text
    assert "processor_factory" in text


def main_with(monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> Any:
    """Stand in for a program whose main module defines `work`."""
    main = types.ModuleType("__main__")
    exec("def work(*_): pass", main.__dict__)
    main.__dict__.update(attributes)
    monkeypatch.setitem(sys.modules, "__main__", main)
    return main.work


def test_a_function_of_a_program_is_found_in_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    work = main_with(monkeypatch, __file__="/srv/worker.py", __spec__=None)
    named = ("__mp_main__:work", "/srv/worker.py")
    assert importable(work, "message_processor") == named
    assert importable("__main__:work", "message_processor") == named


def test_a_function_of_a_program_run_with_m_is_found_in_its_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = types.SimpleNamespace(name="speech.worker")
    work = main_with(monkeypatch, __file__="/srv/speech/worker.py", __spec__=spec)
    assert importable(work, "message_processor") == ("speech.worker:work", None)


def test_a_function_of_a_folder_or_zip_file_that_python_runs_is_found_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = types.SimpleNamespace(name="__main__")
    work = main_with(monkeypatch, __file__="/srv/worker.zip/__main__.py", __spec__=spec)
    assert importable(work, "message_processor") == ("__mp_main__:work", "/srv/worker.zip")


@pytest.mark.parametrize("attributes", [{}, {"__file__": "<stdin>"}], ids=str)
def test_a_function_of_an_interactive_program_is_refused(
    monkeypatch: pytest.MonkeyPatch, attributes: dict[str, str]
) -> None:
    work = main_with(monkeypatch, __spec__=None, **attributes)
    with pytest.raises(ConfigurationError, match="main module has no file; move work to a module"):
        importable(work, "message_processor")
