"""The options that let operators act from the page: `--actions` and `--action-origins`."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from shared_sync.errors import ConfigurationError

if TYPE_CHECKING:
    from shared_sync.connection.credentials import CredentialProvider
    from shared_sync.group_actions import GroupActions


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--actions",
        action="store_true",
        default=os.environ.get("HEALTH_ACTIONS", "") not in ("", "0"),
        help="let whoever has the token act from the page: replay and purge dead letters, pause "
        "the group, find messages (default: HEALTH_ACTIONS=1, else off)",
    )
    parser.add_argument(
        "--action-origins",
        default=os.environ.get("HEALTH_ACTION_ORIGINS") or "",
        metavar="ORIGINS",
        help="where operators open the page, if a proxy passes on another name, such as "
        "https://ops.example; several with commas between them (default: HEALTH_ACTION_ORIGINS, "
        "else none)",
    )


def make(
    redis_url: str,
    *,
    stream: str | None,
    group: str | None,
    token: str | None,
    credential_provider: CredentialProvider | None = None,
) -> GroupActions:
    """Return what acts on the group. Raises `ConfigurationError` if something is missing."""
    if not (stream and group):
        raise ConfigurationError("--actions needs --stream and --group: what is to be acted on")
    if token is None:
        raise ConfigurationError(
            "--actions needs a token, or everybody who can reach the port could replay and delete "
            "dead letters and pause the group; give it by HEALTH_TOKEN or --token-file"
        )
    from shared_sync.group_actions import GroupActions  # noqa: PLC0415 - loads Redis

    return GroupActions(redis_url, stream, group, credential_provider=credential_provider)
