"""Fingerprints of errors: what errors of one cause have in common."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Final

# Errors of one cause differ in quoted texts, and in words with a digit, as numbers, ids and
# addresses are.
_VARYING: Final = re.compile(r"""(?<!\w)b?(?:'[^']*'|"[^"]*"|`[^`]*`)|\b[^\W\d]*\d[\w.]*""")


@lru_cache(maxsize=1000)
def fingerprint(error_type: str, reason: str, text: str) -> str:
    """Return 8 hex digits that errors of one cause share, whatever numbers and names are in them.

    It is made of the texts and not of tracebacks, which differ from version to version of the same
    program. A message that was rejected has none. Cached, because many errors have the same text.
    """
    cause = "\n".join((error_type, _VARYING.sub("#", reason), _VARYING.sub("#", text)))
    return hashlib.blake2s(cause.encode(errors="replace"), digest_size=4).hexdigest()
