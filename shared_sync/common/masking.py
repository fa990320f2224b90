"""Passwords, tokens and keys that stand in a text, such as that of an error, made unreadable."""

from __future__ import annotations

import re
from typing import Final

MASK: Final = "***"

# In all patterns, what repeats without a limit ends at the first character that it cannot be: a
# long text takes time in proportion to its length.
_NAMES: Final = (
    r"password|passwd|passphrase|pwd|secret|token(?!s)|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|account[_-]?key|authorization|credentials?|cookie"
)
_URL_USER: Final = (
    r"(?<=://)(?:[^/?#\s@]*@"
    # A password with / ? or # in it, which should have been percent-encoded; but no port.
    r"|[^/?#\s@:\[]*:(?!\d+(?:[/?#\s]|$))[^\s@]{0,200}@)(?:[^/?#\s@]*@)*"
)
_NAMED: Final = (
    rf"(?P<name>(?:{_NAMES})[\w-]{{0,30}}[\"']?\s{{0,3}}[=:]\s{{0,3}})"
    r"(?:\"(?:[^\"\\]|\\.)*\"?|'(?:[^'\\]|\\.)*'?"
    r"|(?:(?:bearer|basic|digest|token)\s{1,3})?[^\s,;&\"'()\[\]{}<>]+)"
)
_BEARER: Final = r"(?P<scheme>\bbearer\s{1,3})[\w.~+/=-]{6,}"
_WELL_KNOWN: Final = (
    r"\b(?:(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_\w{20,}|hf_\w{20,}|sk-[\w-]{20,}"
    r"|xox[abprs]-[\w-]{10,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
)
_SECRETS: Final = re.compile(
    rf"(?P<user>{_URL_USER})|{_NAMED}|{_BEARER}|{_WELL_KNOWN}", re.IGNORECASE
)
# Text without any of these has no secret. Looking for them is much faster.
_HINTS: Final = (
    *("://", "passw", "passphrase", "pwd", "secret", "token", "key", "authorization", "credential"),
    *("cookie", "bearer", "akia", "asia", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "hf_", "sk-"),
    *("xox", "eyj"),
)
_SECRET_NAME: Final = re.compile(rf"(?:{_NAMES})$", re.IGNORECASE)


def mask_secrets(text: str) -> str:
    """Return the text with `***` for what looks like a secret.

    That is: user and password in a URL; the value behind a name such as `password=`, `"api_key":`
    or `Authorization:`; a bearer token; a token or key of a well-known form. What follows a word
    without `=` or `:` cannot be recognized.
    """
    lowered = text.lower()
    if not any(hint in lowered for hint in _HINTS):
        return text
    return _SECRETS.sub(_masked, text)


def is_secret_name(name: str) -> bool:
    """Return whether a field of this name, such as `db_password`, has a secret as its value."""
    return _SECRET_NAME.search(name) is not None


def _masked(found: re.Match[str]) -> str:
    if found["user"]:
        return f"{MASK}@"
    return f"{found['name'] or found['scheme'] or ''}{MASK}"
