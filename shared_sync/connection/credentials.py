"""User and password that may change while a process runs: a provider is asked at each connect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from shared_sync.errors import ConfigurationError, RedisUnavailable

Credentials: TypeAlias = tuple[str] | tuple[str, str]
"""A password, or a user and a password."""


class CredentialProvider(Protocol):
    """What `credential_provider` takes: a `CredentialProvider` of redis-py, or anything like it.

    `get_credentials()` is called for each new connection, in the thread that connects, which waits
    for it. Several threads may call it at the same time. What it returns is not kept, so it should
    keep by itself what is expensive to get. What it raises counts as an outage of Redis.

    Where Sentinels are asked for the master and have a password as well, the provider may have a
    second method `get_sentinel_credentials()`. Otherwise the redis_url has theirs.
    """

    def get_credentials(self) -> Credentials: ...


class CheckedProvider:
    """Gives the driver what a provider returns, in the form that it takes."""

    def __init__(self, get: Callable[[], object], name: str) -> None:
        # Fixed after construction.
        self._get = get
        self._name = name

    def get_credentials(self) -> Credentials:
        """Raises `RedisUnavailable` if the provider does not return a user and password."""
        try:
            given = self._get()
        except Exception as error:
            # Its text may contain what must not be shown.
            raise _no_credentials(
                f"{self._name}() of credential_provider raised {type(error).__name__}"
            ) from error
        if (
            isinstance(given, tuple)
            and len(given) in (1, 2)
            and all(isinstance(part, str) for part in given)
        ):
            return given
        raise _no_credentials(
            f"{self._name}() of credential_provider must return (password,) or (user, password) "
            "as text"
        )


def _no_credentials(text: str) -> RedisUnavailable:
    error = RedisUnavailable(text)
    error.cause = "no credentials"
    return error


def of_server(provider: CredentialProvider) -> CheckedProvider:
    """Raises `ConfigurationError` for what is no provider."""
    return CheckedProvider(_method(provider, "get_credentials"), "get_credentials")


def of_sentinels(provider: CredentialProvider) -> CheckedProvider | None:
    """None if the provider has nothing for Sentinels."""
    name = "get_sentinel_credentials"
    if not hasattr(provider, name):
        return None
    return CheckedProvider(_method(provider, name), name)


def _method(provider: CredentialProvider, name: str) -> Callable[[], object]:
    method: Callable[[], object] | None = getattr(provider, name, None)
    if not callable(method):
        raise ConfigurationError(
            f"credential_provider must have the method {name}(), such as a CredentialProvider of "
            f"redis-py; not {type(provider).__name__}"
        )
    return method
