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
_LETTER_INDEX: Final = "letter_index.lua"
_WITH_LETTER_INDEX: Final = frozenset(
    ("bury", "import", "letter_rows", "purge", "replay", "replay_large")
)
_SUFFIX: Final = ".lua"


@dataclass(frozen=True)
class Script:
    """A Lua script and the digest under which the server knows it once it is loaded."""

    text: str
    digest: str


@cache
def scripts() -> dict[str, Script]:
    """All scripts by name, read once: each file in `protocol/lua` behind the text of common.lua.

    Those about dead letters also have letter_index.lua in front of them.
    """
    folder = files("shared_sync.protocol").joinpath("lua")
    common = folder.joinpath(_COMMON).read_text(encoding="utf-8")
    letter_index = folder.joinpath(_LETTER_INDEX).read_text(encoding="utf-8")
    read = {}
    for file in folder.iterdir():
        name = file.name.removesuffix(_SUFFIX)
        if file.name.endswith(_SUFFIX) and file.name not in (_COMMON, _LETTER_INDEX):
            shared = common + letter_index if name in _WITH_LETTER_INDEX else common
            text = shared + file.read_text(encoding="utf-8")
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
