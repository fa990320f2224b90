"""The Lua scripts of the package, and the command that calls one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

Command = tuple[Any, ...]
"""The words of a Redis command, as the driver packs them."""

_COMMON: Final = "common.lua"
_SHARED: Final = {
    "letter_index.lua": frozenset(
        ("bury", "import", "letter_rows", "purge", "replay", "replay_large")
    ),
    "events.lua": frozenset(("record_event", "sign_off", "worker_report")),
}
"""Files that stand in front of some scripts, behind common.lua, and the names of these."""

_SUFFIX: Final = ".lua"


@dataclass(frozen=True)
class Script:
    """A Lua script and the digest under which the server knows it once it is loaded."""

    text: str
    digest: str


@cache
def scripts() -> dict[str, Script]:
    """All scripts by name, read once: each file in `protocol/lua` behind the text of common.lua.

    Some have another file of functions in between, as `_SHARED` says.
    """
    folder = files("shared_sync.protocol").joinpath("lua")
    texts = {
        file.name: file.read_text(encoding="utf-8")
        for file in folder.iterdir()
        if file.name.endswith(_SUFFIX)
    }
    common = texts.pop(_COMMON)
    shared = {texts.pop(name): users for name, users in _SHARED.items()}
    read = {}
    for file_name, own in texts.items():
        name = file_name.removesuffix(_SUFFIX)
        in_front = "".join(functions for functions, users in shared.items() if name in users)
        text = common + in_front + own
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        read[name] = Script(text, digest)
    return read


@cache
def text_of(digest: str) -> str:
    """The text of the script that has this digest; KeyError for any other digest."""
    return {script.digest: script.text for script in scripts().values()}[digest]


def call(name: str, keys: Sequence[str], *arguments: object) -> Command:
    """The command that runs the script `name`; a connection loads the script when needed."""
    return ("EVALSHA", scripts()[name].digest, len(keys), *keys, *arguments)
