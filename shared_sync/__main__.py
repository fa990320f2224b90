"""python -m shared_sync, which is also installed as the command `shared-sync`.

`shared-sync --help` lists the commands; each is a module of `cli/`.
"""

from __future__ import annotations

import sys

from shared_sync.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
