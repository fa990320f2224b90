"""Adds to an error of the server which key or right it is about, and what to change."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from shared_sync.connection import scripts
from shared_sync.connection.scripts import Command
from shared_sync.errors import RedisAccessDenied, RedisRefused, SharedSyncError

_RIGHTS: Final = "docs/redis.md lists the least rights"

_DENIED_COMMAND: Final = re.compile(r"permissions to run the '([\w|]+)' command")
_DENIED_KEY: Final = re.compile(r"access (?:a key|(?:at least )?one of the keys)")
# Before Redis 7.2 a refusal inside of a script does not name the command, but the line.
_LINE: Final = re.compile(r"@user_script: ?(\d+)")
_CALL_IN_LUA: Final = re.compile(r"call\('([A-Z]+)'(?:,\s*'([A-Z]+)')?")
_LINES_OF_A_CALL: Final = (0, -1, -2, 1)
"""Where the name of the command stands, from the line that the server names."""
_WITH_SUBCOMMANDS: Final = frozenset({"XGROUP", "XINFO", "SCRIPT", "CLIENT", "CLUSTER"})


def explain(error: SharedSyncError, command: Command) -> SharedSyncError:
    """Return the error that answered the command, with the key or right that it is about."""
    text = str(error)
    if isinstance(error, RedisRefused):
        if error.code == "WRONGTYPE":
            return RedisRefused(f"{text} ({_shown(keys_of(command))})", code=error.code)
    elif isinstance(error, RedisAccessDenied) and (remedy := _missing_right(text, command)):
        denied = RedisAccessDenied(f"{text}; {remedy}")
        denied.cause = error.cause
        return denied
    return error


def is_about_key(error: SharedSyncError) -> bool:
    """Return whether the user may not use a key, so that another command may well be allowed."""
    return isinstance(error, RedisAccessDenied) and bool(_DENIED_KEY.search(str(error)))


def keys_of(command: Command) -> Sequence[str]:
    """The keys of a command that has some."""
    name = command[0] if command else ""
    if name == "EVALSHA":
        return [str(key) for key in command[3 : 3 + command[2]]]
    if name == "XREADGROUP":
        streams = command[command.index("STREAMS") + 1 :]
        return [str(key) for key in streams[: len(streams) // 2]]
    first = 2 if name in _WITH_SUBCOMMANDS else 1
    return [str(key) for key in command[first : first + 1]]


def _shown(keys: Sequence[str]) -> str:
    names = ", ".join(map(repr, keys))
    return f"the key {names}" if len(keys) == 1 else f"one of the keys {names}"


def _missing_right(text: str, command: Command) -> str:
    if "Authentication required" in text:
        return "write redis://user:password@host in redis_url, or pass credential_provider"
    if _DENIED_KEY.search(text):
        return f"grant this user {_shown(keys_of(command))} with ~; {_RIGHTS}"
    named = _DENIED_COMMAND.search(text)
    if named:
        return f"grant this user +{named.group(1)}; {_RIGHTS}"
    right = _right_of_line(text, command)
    if right:
        return f"grant this user +{right}; {_RIGHTS}"
    return f"the server does not say which right is missing; {_RIGHTS}" if "script" in text else ""


def _right_of_line(text: str, command: Command) -> str:
    """The right for the call in the line of a script that the server names, or ''."""
    line = _LINE.search(text)
    if line is None or not command or command[0] != "EVALSHA":
        return ""
    lines = scripts.text_of(command[1]).splitlines()
    for offset in _LINES_OF_A_CALL:
        index = int(line.group(1)) - 1 + offset
        call = _CALL_IN_LUA.search(lines[index]) if 0 <= index < len(lines) else None
        if call is not None:
            name, subcommand = call.groups()
            return (f"{name}|{subcommand}" if name in _WITH_SUBCOMMANDS else name).lower()
    return ""
