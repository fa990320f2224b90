"""Notices that the source of a program has changed, by the times of its files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_NOT_SOURCE: Final = frozenset({"__pycache__", "node_modules", "site-packages"})


class SourceFiles:
    """The `.py` files below a folder, without hidden folders and virtual environments."""

    def __init__(self, folder: Path) -> None:
        # Fixed after construction.
        self._folder = folder
        # Owned by the thread that calls `changed()`.
        self._times = dict(self._read())

    def changed(self) -> str | None:
        """Return a file that is new, changed or gone since the last call; None if there is none."""
        before, self._times = self._times, dict(self._read())
        differing = {*before.items()} ^ {*self._times.items()}
        return min((path for path, _ in differing), default=None)

    def _read(self) -> Iterator[tuple[str, int]]:
        for folder, folders, files in os.walk(self._folder):
            folders[:] = [
                name
                for name in folders
                if not name.startswith(".")
                and name not in _NOT_SOURCE
                and not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))
            ]
            for name in files:
                if name.endswith(".py"):
                    path = os.path.join(folder, name)
                    with suppress(OSError):  # it is gone, or a link that leads nowhere
                        yield os.path.relpath(path, self._folder), os.stat(path).st_mtime_ns
