"""The kinds of values that settings have: how each is read from text, and what may be given.

The text is the same wherever it comes from: the command line, the environment or a file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from shared_sync.common import arguments
from shared_sync.errors import ConfigurationError

NONE: Final = "none"
"""The text for a setting that is to have no value."""

_IMPORT_PATH: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_YES: Final = ("true", "yes", "on", "1")
_NO: Final = ("false", "no", "off", "0")


class Kind(Protocol):
    """A kind of values. What `read()` returns can be stored as JSON."""

    @property
    def metavar(self) -> str:
        """What `--help` shows for the value."""

    @property
    def allowed(self) -> str:
        """What may be given, for `--help`; empty if the help says enough."""

    def read(self, name: str, text: str) -> Any:
        """Return the value. Raises `ConfigurationError`, which begins with `name`."""


@dataclass(frozen=True, slots=True)
class Text:
    """Any text, as it is."""

    metavar: str = "TEXT"
    allowed: str = ""

    def read(self, name: str, text: str) -> str:
        """Return the text."""
        arguments.text(name, text)
        return text


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]

    @property
    def metavar(self) -> str:
        """The words."""
        return "|".join(self.words)

    @property
    def allowed(self) -> str:
        """Empty, since the metavar says it."""
        return ""

    def read(self, name: str, text: str) -> str:
        """Return the word."""
        if text not in self.words:
            raise ConfigurationError(f"{name} must be {' or '.join(self.words)}, not {text!r}")
        return text


@dataclass(frozen=True, slots=True)
class Switch:
    """On or off."""

    metavar: str = ""
    allowed: str = ""

    def read(self, name: str, text: str) -> bool:
        """Return whether it is on."""
        word = text.lower()
        if word not in (*_YES, *_NO):
            raise ConfigurationError(f"{name} must be true or false, not {text!r}")
        return word in _YES


@dataclass(frozen=True, slots=True)
class Number:
    """A number from `lowest` to `highest`, inclusive, or one of some words."""

    lowest: float
    highest: float = math.inf
    unit: str = ""
    words: Mapping[str, Any] = field(default_factory=dict)
    """Words that may stand in the place of a number, and the values that they mean."""

    whole: bool = False

    @property
    def metavar(self) -> str:
        """The unit."""
        return self.unit.upper() or "N"

    @property
    def allowed(self) -> str:
        """The limits, and the words."""
        limits = (
            f"at least {self.lowest:.15g}"
            if self.highest == math.inf
            else f"{self.lowest:.15g} to {self.highest:.15g}"
        )
        return " or ".join([limits, *self.words])

    def read(self, name: str, text: str) -> Any:
        """Return the number, or what a word means."""
        if text in self.words:
            return self.words[text]
        try:
            value: float = int(text) if self.whole else float(text)
        except ValueError:
            value = math.nan
        if not self.lowest <= value <= self.highest or value == math.inf:
            kind = "a whole number" if self.whole else "a number"
            unit = f" of {self.unit}" if self.unit else ""
            raise ConfigurationError(f"{name} must be {kind}{unit}, {self.allowed}, not {text!r}")
        return value


@dataclass(frozen=True, slots=True)
class Names:
    """Names, with commas between them."""

    metavar: str = "NAMES"
    allowed: str = "commas between them"

    def read(self, name: str, text: str) -> list[str]:
        """Return the names; none for an empty text."""
        if text[:1] in ("[", "("):
            raise ConfigurationError(
                f"{name} must be names with commas between them and without brackets, not {text!r}"
            )
        return [part.strip() for part in text.split(",") if part.strip()]


@dataclass(frozen=True, slots=True)
class ImportPath:
    """The name of something in a module: `package.module:name`."""

    metavar: str = "MODULE:NAME"
    allowed: str = ""

    def read(self, name: str, text: str) -> str:
        """Return the path."""
        if not _IMPORT_PATH.fullmatch(text):
            raise ConfigurationError(f"{name} must be {self.metavar}, not {text!r}{_remedy(text)}")
        return text


@dataclass(frozen=True, slots=True)
class ImportPaths:
    """Import paths, with commas between them."""

    metavar: str = "MODULE:NAME,..."
    allowed: str = ""

    def read(self, name: str, text: str) -> list[str]:
        """Return the paths."""
        one = ImportPath()
        return [one.read(name, part) for part in Names().read(name, text)]


@dataclass(frozen=True, slots=True)
class Port:
    """The number of a port, 0 for a free one, or `none`."""

    metavar: str = "PORT"
    allowed: str = "0 to 65535 or none"

    def read(self, name: str, text: str) -> int | None:
        """Return the number; None for `none`."""
        return None if text == NONE else arguments.port(name, text)


def _remedy(text: str) -> str:
    module, _, attribute = text.partition(":")
    if module.endswith(".py") or "/" in module:
        module = module.removesuffix(".py").strip("./").replace("/", ".")
        return f"; name the module, not its file: {module}:{attribute or 'NAME'}"
    if not attribute:
        return f"; write the name of the function behind a colon: {module}:NAME"
    return ""


def shown(value: Any) -> str:
    """Return a value as it would be written in a file."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
