"""The Lua scripts of the package, and how one is called."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

Command = tuple[Any, ...]


@dataclass(frozen=True)
class Script:
    """A Lua script and the digest under which the server knows it once it is loaded."""

    text: str
    digest: str


_SCRIPT_NAMES: Final = (
    "publish",
    "replay",
    "finish",
    "park",
    "bury",
    "hand_back",
    "recover",
    "hold",
    "beat",
    "leave",
    "view",
    "entries",
)


@cache
def scripts() -> dict[str, Script]:
    """All scripts by name, read once from the package."""
    folder = files("shared_sync.protocol").joinpath("lua")
    common = folder.joinpath("common.lua").read_text(encoding="utf-8")
    loaded = {}
    for name in _SCRIPT_NAMES:
        text = common + folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        loaded[name] = Script(text, digest)
    return loaded


def call(name: str, keys: Sequence[str], *arguments: object) -> Command:
    return ("EVALSHA", scripts()[name].digest, len(keys), *keys, *arguments)
