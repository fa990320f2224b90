"""Actions: what an operator may do to a group from the dashboard, if the program allows it."""

from shared_sync.health_server.actions.protocol import Actions

__all__ = ["Actions"]
