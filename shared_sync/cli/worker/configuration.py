"""The effective configuration: an option counts before a variable, and that before the file."""

from __future__ import annotations

import argparse
import configparser
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from shared_sync.cli.worker.kinds import Port, shown
from shared_sync.cli.worker.setting import PREFIX, Setting
from shared_sync.cli.worker.settings import SETTINGS
from shared_sync.common.arguments import cause_of_address
from shared_sync.common.masking import mask_secrets
from shared_sync.errors import ConfigurationError

SECTION: Final = "shared_sync"
CONFIG_VARIABLE: Final = f"{PREFIX}CONFIG"
TOKEN_VARIABLE: Final = "HEALTH_TOKEN"  # noqa: S105 - the name of a variable
DEFAULT: Final = "default"

_OF_KUBERNETES: Final = re.compile(r"(SERVICE_(HOST|PORT)|PORT)(_.*)?|.*_SERVICE_(HOST|PORT)(_.*)?")
"""What follows the prefix in variables that Kubernetes sets for a Service such as `shared-sync`."""

_QUOTED: Final = re.compile(r"""("|').*\1""", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Value:
    """The value of a setting, and where it comes from: an option, a variable, a file or nowhere."""

    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class Configuration:
    """The values of all settings."""

    values: Mapping[str, Value]
    warnings: tuple[str, ...] = ()
    """What is not as it seems, for the log."""

    def __getitem__(self, name: str) -> Any:
        """Return the value of a setting."""
        return self.values[name].value

    def source(self, name: str) -> str:
        """Return where the value comes from."""
        return self.values[name].source

    def is_given(self, name: str) -> bool:
        """Return whether somebody has chosen the value."""
        return self.source(name) != DEFAULT

    @property
    def token_source(self) -> str:
        """Return where the token of the health server comes from, if there is one."""
        return TOKEN_VARIABLE if self["token_file"] is None else self.source("token_file")

    def to_json(self) -> dict[str, list[Any]]:
        """Return everything but the warnings, with secrets, for a worker process."""
        return {name: [at.value, at.source] for name, at in self.values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, list[Any]]) -> Configuration:
        """Return what `to_json()` was called on."""
        return cls({name: Value(*pair) for name, pair in values.items()})

    def rows(self, *, all_settings: bool) -> list[dict[str, Any]]:
        """Return the settings with their values and sources, without secrets.

        Only those that somebody has chosen, unless `all_settings`.
        """
        return [
            {"name": name, "value": _public(at.value), "source": at.source}
            for name, at in self.values.items()
            if all_settings or at.source != DEFAULT
        ]


def read(options: argparse.Namespace, environment: Mapping[str, str]) -> Configuration:
    """Return the effective configuration.

    `options` has the text of each option that was given, and None for the others. Raises
    `ConfigurationError`, which names the source of the value that cannot be.
    """
    warnings: list[str] = []
    path = options.config or environment.get(CONFIG_VARIABLE) or None
    in_file = {} if path is None else _read_file(path)
    values = {}
    for name, setting in SETTINGS.items():
        source, text = _find(setting, options, environment, in_file, path, warnings)
        value = setting.default if text is None else setting.kind.read(source, text)
        values[name] = Value(value, DEFAULT if text is None else source)
    warnings += _unknown_variables(environment)
    return Configuration(values, tuple(warnings))


def require(configuration: Configuration, names: Iterable[str]) -> None:
    """Raise `ConfigurationError` if one of these settings has no value."""
    for name in names:
        if configuration[name] is None:
            setting = SETTINGS[name]
            first = "MODULE:PROCESSOR" if name == "processor" else setting.option
            raise ConfigurationError(
                f"{first} is missing; give it, or set {setting.all_variables[-1]}, or {name} in "
                f"the section [{SECTION}] of a file (--config)"
            )


def _find(
    setting: Setting,
    options: argparse.Namespace,
    environment: Mapping[str, str],
    in_file: Mapping[str, str],
    path: str | None,
    warnings: list[str],
) -> tuple[str, str | None]:
    """Return the source of a setting and its text; None for the text if nobody has given it."""
    text: str | None = getattr(options, setting.name)
    if text is not None:
        return ("MODULE:PROCESSOR" if setting.name == "processor" else setting.option), text
    for variable in setting.all_variables:
        text = environment.get(variable)
        if not text:
            continue  # empty, as where a Compose file passes on a variable that is not set
        if isinstance(setting.kind, Port) and (cause := cause_of_address(text)):
            warnings.append(f"{variable} is ignored, as it is {text!r}{cause}")
            continue
        return variable, text
    if setting.name in in_file:
        return f"{setting.name} in {path}", in_file[setting.name]
    return DEFAULT, None


def _read_file(path: str) -> dict[str, str]:
    """Return the texts of the section of a file, by the names of settings.

    The form is that of `configparser`, which every supported Python has: `tomllib` came with Python
    3.11.
    """
    parser = configparser.ConfigParser(
        interpolation=None,
        inline_comment_prefixes=("#",),
        delimiters=("=",),
        default_section="",  # or the keys of a section [DEFAULT] would be settings
    )
    try:
        with open(path, encoding="utf-8-sig") as file:
            parser.read_file(file)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(f"--config {path} cannot be read: {reason}") from None
    except configparser.Error as error:
        raise ConfigurationError(f"--config {path} cannot be understood: {_why(error)}") from None
    if not parser.has_section(SECTION):
        there = ", ".join(f"[{name}]" for name in parser.sections()) or "no sections"
        raise ConfigurationError(f"{path} has no section [{SECTION}]; it has {there}")
    found = {}
    for key, text in parser[SECTION].items():
        name = key.replace("-", "_")
        if name not in SETTINGS:
            raise ConfigurationError(f"{path}: there is no setting {key!r}{_nearest(name)}")
        if _QUOTED.fullmatch(text):
            raise ConfigurationError(f"{path}: write the value of {key} without quotation marks")
        if text:
            found[name] = text
    return found


def _why(error: configparser.Error) -> str:
    """Return what is wrong with a file, without its lines: they may have secrets."""
    if isinstance(error, configparser.MissingSectionHeaderError):
        return f"line {error.lineno} stands before the first section; begin with [{SECTION}]"
    if isinstance(error, configparser.ParsingError):
        numbers = ", ".join(str(number) for number, _ in error.errors)
        return f"not NAME = VALUE: line {numbers}"
    return mask_secrets(" ".join(str(error).split()))


def _unknown_variables(environment: Mapping[str, str]) -> list[str]:
    settings = SETTINGS.values()
    known = {CONFIG_VARIABLE, *(name for setting in settings for name in setting.all_variables)}
    warnings = []
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or variable in known:
            continue
        rest = variable.removeprefix(PREFIX)
        if not _OF_KUBERNETES.fullmatch(rest):
            warnings.append(f"{variable} is no setting and is ignored{_nearest(rest.lower())}")
    return warnings


def _nearest(name: str) -> str:
    alike = get_close_matches(name, SETTINGS, 1)
    return f"; did you mean {alike[0]}?" if alike else "; --help lists all settings"


def _public(value: Any) -> Any:
    """Return a value without passwords, in a form that JSON has."""
    if isinstance(value, list):
        return [_public(one) for one in value]
    if isinstance(value, str):
        return mask_secrets(value)
    return shown(value) if isinstance(value, float) and value == float("inf") else value
