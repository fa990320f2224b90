"""The commands of `python -m shared_sync` and `python -m shared_sync.health`, one module each."""
