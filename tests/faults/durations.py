"""How long the workers of the fault tests wait, in seconds; users' workers wait longer."""

LEASE_SECONDS = 2.0
BLOCK_SECONDS = 0.1
REPLY_MARGIN_SECONDS = 0.4
RECOVERY_SECONDS = 0.4
REPLY_SECONDS = BLOCK_SECONDS + REPLY_MARGIN_SECONDS
"""After so long without a reply a connection is given up."""

DEFAULT_LEASE_SECONDS = 30.0
SHORT_LEASE_SECONDS = 1.0
"""Where a worker that is taken for dead on a busy machine does no harm."""
PATIENCE_SECONDS = 60.0
"""How long a reply may take; so long as it might come, nobody else may run what it brings."""
MARGIN_SECONDS = 3.0
"""How much slower than promised the machine may be that runs the tests."""
