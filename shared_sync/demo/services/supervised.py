"""Runs one of the three programs until its standard input is closed, as by the end of its parent.

    python -m shared_sync.demo.services.supervised gateway

The demo starts its programs so, and none of them outlives it, however it ends.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from typing import Final

GRACE_SECONDS: Final = 2.0
"""After its parent has ended. The demo itself gives a program more time."""


def main(program: str) -> int:
    """Run the program in this process."""
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    status: int = importlib.import_module(f"shared_sync.demo.services.{program}").main()
    return status


def _end_with_parent() -> None:
    """End this process when the parent has ended, for whose Redis it need not wait."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
