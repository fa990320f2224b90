"""`shared-sync demo`: real speech through a Redis Stream."""
