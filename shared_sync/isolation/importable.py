"""Names by which a child process finds the program's function or factory again."""

from __future__ import annotations

import os
import sys
from typing import Any, Final, NamedTuple

from shared_sync.errors import ConfigurationError

CHILD_MAIN: Final = "__mp_main__"
"""The name under which a child runs the program's main file, as `multiprocessing` does: what stands
under `if __name__ == "__main__":` is not run."""

REMEDY: Final = (
    "define it with def or class at the top level of a module, or name it by an import path such "
    'as "package.module:name"; let a processor_factory make what it needs beside that'
)


class Importable(NamedTuple):
    """An object that a child can import."""

    path: str
    """Its import path, as "package.module:name"."""

    main_file: str | None
    """The program's main file, or the folder or zip file that Python runs, if the object is defined
    there."""


def importable(given: object, argument: str) -> Importable:
    """Return how a child imports a function or class, or what an import path names.

    Raises `ConfigurationError` for what cannot be imported: a lambda, a function within a function,
    a method of an object, a partial, or an object that is not found under its own name.
    """
    if isinstance(given, str):
        module, _, name = given.partition(":")
    else:
        module, name = getattr(given, "__module__", ""), getattr(given, "__qualname__", "")
        if not _is_found(module, name, given):
            raise ConfigurationError(
                f'{argument} cannot be imported by a child process (isolation="process"): '
                f"{given!r}; {REMEDY}"
            )
    if module != "__main__":
        return Importable(f"{module}:{name}", None)
    main: Any = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    file = getattr(main, "__file__", None)
    if spec is not None and spec.name != "__main__":  # python -m package.module
        return Importable(f"{spec.name}:{name}", None)
    if spec is not None and file is not None:  # python folder, or python app.zip
        return Importable(f"{CHILD_MAIN}:{name}", os.path.dirname(os.path.abspath(file)))
    if file is None or file.startswith("<"):  # typed in, or piped into Python
        raise ConfigurationError(
            f'{argument} is defined where no child process (isolation="process") can import it: '
            f"the main module has no file; move {name} to a module"
        )
    return Importable(f"{CHILD_MAIN}:{name}", file)


def _is_found(module: object, name: object, given: object) -> bool:
    """Return whether an object is what stands in its module under its name."""
    if not isinstance(module, str) or not isinstance(name, str):
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is given
