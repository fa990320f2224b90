"""How long the workers of the fault tests wait, in seconds; users' workers wait longer."""

LEASE_SECONDS = 2.0
BLOCK_SECONDS = 0.1
REPLY_MARGIN_SECONDS = 0.4
RECOVERY_SECONDS = 0.4
REPLY_SECONDS = BLOCK_SECONDS + REPLY_MARGIN_SECONDS
"""After so long without a reply a connection is given up."""
