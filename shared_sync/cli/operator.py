"""Who runs a command."""

from __future__ import annotations

import getpass
import os
import socket


def name() -> str:
    """Return the user and the machine, as they stand in logs and events."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # such as in a container, whose user has no name
        user = f"user {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
