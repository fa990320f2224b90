"""The states in the life of a consumer."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """What a consumer is doing.

    A consumer goes down this list and never back, except that a start which fails makes it new
    again. In a process that was forked meanwhile, the copy of a consumer that was started and has
    not stopped is elsewhere.
    """

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"
    ELSEWHERE = "started in another process"
