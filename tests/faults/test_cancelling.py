"""Jobs that expire or are cancelled at random moments, while a worker is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from shared_sync.connection.embedded import EmbeddedRedis

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "cancel_and_expire.py"


def test_each_job_has_one_end_and_none_starts_that_was_cancelled_while_it_waited(
    redis_server: EmbeddedRedis,
) -> None:
    brief = ["--jobs", "200", "--seconds", "1.5", "--lease", "1"]
    where = ["--redis-server", str(redis_server.binary)]
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *brief, *where],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
