"""Command-line options that say where Redis is, and how to get its password."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from shared_sync.errors import ConfigurationError

DEFAULT_URL: Final = "redis://localhost:6379/0"
_VISIBLE: Final = (
    "shared_sync: warning: --redis-url has a password, which everybody on this machine can read "
    "while the command runs"
)


class RedisURL(argparse.Action):
    """Takes the URL, and warns on stderr if it has a password. `const` is the remedy."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        del parser, option_string
        if _has_password(str(values)):
            print(f"{_VISIBLE}; {self.const}", file=sys.stderr)
        setattr(namespace, self.dest, values)


def add_redis(parser: argparse.ArgumentParser) -> Sequence[argparse.Action]:
    """Add the options for the address and the password of Redis."""
    url = parser.add_argument(
        "--redis-url",
        action=RedisURL,
        const="set REDIS_URL instead, or give --redis-password-file",
        default=os.environ.get("REDIS_URL") or DEFAULT_URL,
        metavar="URL",
        help=f"Redis (default: REDIS_URL, else {DEFAULT_URL}). Put a password into REDIS_URL "
        "or a file: everybody on the machine can read a command line",
    )
    password_file = parser.add_argument(
        "--redis-password-file",
        metavar="FILE",
        help="file with the password of Redis, which is read again at each connect; the URL has no "
        "user and no password then",
    )
    user = parser.add_argument(
        "--redis-user", metavar="NAME", help="user whose password is in --redis-password-file"
    )
    return url, password_file, user


class PasswordFile:
    """A `CredentialProvider` that reads the password from a file."""

    def __init__(self, path: str, user: str | None) -> None:
        """Raises `ConfigurationError` if the file cannot be read."""
        # Fixed after construction.
        self._path = Path(path)
        self._user = user
        try:
            self.get_credentials()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigurationError(
                f"--redis-password-file {path} cannot be read: {reason}"
            ) from None

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Blocks as the file system does."""
        password = self._path.read_text(encoding="utf-8").strip()
        return (password,) if self._user is None else (self._user, password)


def read_credentials(options: argparse.Namespace) -> PasswordFile | None:
    """The provider that the options of `add_redis()` ask for; None for what the URL has."""
    if options.redis_password_file is None:
        if options.redis_user is not None:
            raise ConfigurationError("--redis-user needs --redis-password-file")
        return None
    return PasswordFile(options.redis_password_file, options.redis_user)


def _has_password(url: str) -> bool:
    user = url.partition("://")[2].rpartition("@")[0]
    return ":" in user or "password=" in url
