"""`python -m shared_sync demo`: real speech through a Redis Stream."""
