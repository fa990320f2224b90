"""Helpers for tests of processors: run one message, run a worker until it is idle, break things.

    from shared_sync.testing import run_once, run_until_idle

    def test_words_are_counted():
        ran = run_once(count_words, {"text": "to be or not"})
        assert ran.result.fields == {"words": 4}

`run_once()` needs no Redis. For the others, `pytest_plugins = ["shared_sync.testing.fixtures"]` in
your `conftest.py` gives you the fixtures `private_redis_url` and `faults`. Nothing of this is a
plugin of pytest unless you ask for it.
"""

from shared_sync.testing.faults import Faults
from shared_sync.testing.once import Emitted, Run, run_once
from shared_sync.testing.until_idle import Idle, run_until_idle

__all__ = ["Emitted", "Faults", "Idle", "Run", "run_once", "run_until_idle"]
