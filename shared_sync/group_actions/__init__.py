"""GroupActions: what an operator may do to a group from the dashboard of a `HealthServer`."""

from shared_sync.group_actions.actions import GroupActions

__all__ = ["GroupActions"]
