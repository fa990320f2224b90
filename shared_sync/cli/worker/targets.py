"""What MODULE:NAME stands for: the processor, and other objects of the program."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from shared_sync.errors import ConfigurationError
from shared_sync.processors import Argument, check_function, import_object

PROCESSOR = "MODULE:PROCESSOR"


@dataclass(frozen=True, slots=True)
class Target:
    """The processor, and the argument of `RedisStreamConsumer` that takes it."""

    argument: Argument
    given: Any


def find_modules_here() -> None:
    """Let modules be found in the current folder, as other commands of Python do."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)


def load_processor(path: str, *, is_factory: bool, takes_batches: bool, in_child: bool) -> Target:
    """Return the processor that a path names.

    A class is a factory, also without `is_factory`. With `in_child` the module is not imported
    here: children import it, and a class shows there. Raises what the module raises, and
    `ConfigurationError` if the path leads nowhere or to what cannot be a processor.
    """
    argument: Argument = "batch_processor" if takes_batches else "message_processor"
    if is_factory:
        argument = "processor_factory"
    if in_child:
        _check_module(path)
        return Target(argument, path)
    found = load(path, PROCESSOR)
    if isinstance(found, type):
        argument = "processor_factory"
    return Target(argument, check_function(found, f"{PROCESSOR} {path}", kind=argument))


def load(path: str, source: str) -> Any:
    """Return what a path names; `source` says in errors where the path was given."""
    try:
        return import_object(path, f"{source} {path}")
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}{_nearest(path)}") from error.__cause__


def _check_module(path: str) -> None:
    """Raise `ConfigurationError` if there is no such module. Imports the packages around it."""
    module = path.partition(":")[0]
    top = module.partition(".")[0]
    try:
        is_there = find_spec(top) is not None and find_spec(module) is not None
    except ModuleNotFoundError:
        is_there = False
    except ValueError:  # a module such as __main__
        is_there = True
    if not is_there:
        load(path, PROCESSOR)  # which raises the error that names what is missing


def _nearest(path: str) -> str:
    """Return similar names of the module, if it was imported."""
    module_name, _, attribute = path.partition(":")
    module = sys.modules.get(module_name)
    if not isinstance(module, ModuleType):
        return ""
    names = [name for name, value in vars(module).items() if callable(value) and name[:1] != "_"]
    alike = get_close_matches(attribute, names, 3)
    return f"; did you mean {' or '.join(alike)}?" if alike else ""
