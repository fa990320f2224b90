"""Several messages run together: collected, run, and halved until the one that fails is alone."""
