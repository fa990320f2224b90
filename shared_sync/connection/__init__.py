"""Connections to Redis: addresses, discovery of the server, scripts, and the errors they meet."""
