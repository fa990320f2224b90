"""A window of time that slides on in slices: what happened in the last few minutes."""

from __future__ import annotations

from math import floor
from typing import Generic, TypeVar

T = TypeVar("T")

SLICES = 10
"""Slices of a window. So a window looks back over its length, and at most a tenth further."""


class SlidingWindow(Generic[T]):
    """Keeps the slices of time that have ended within the last `window_seconds`.

    The owner fills the current slice itself, and adds its content here once the slice has ended.
    Times are seconds of one clock that never runs backwards.

    One thread at a time writes. Any thread may read without a lock, as `slices` is replaced as a
    whole.
    """

    __slots__ = ("slice_seconds", "slices", "window_seconds")

    def __init__(self, window_seconds: float) -> None:
        # Fixed after construction.
        self.window_seconds = window_seconds
        self.slice_seconds = window_seconds / SLICES
        # Replaced as a whole by whoever writes.
        self.slices: tuple[tuple[float, T], ...] = ()
        """When each slice ended, and its content; the oldest slice comes first."""

    def end_of_slice(self, now: float) -> float:
        """Return the end of the slice that `now` falls into, a multiple of `slice_seconds`."""
        return (floor(now / self.slice_seconds) + 1) * self.slice_seconds

    def add(self, ended_at: float, content: T) -> None:
        """Add the newest slice. Nobody may change its content any more."""
        self.slices = (*self.slices, (ended_at, content))

    def expire(self, now: float) -> tuple[tuple[float, T], ...]:
        """Remove the slices that have left the window, and return them."""
        horizon = now - self.window_seconds
        expired = tuple(piece for piece in self.slices if piece[0] <= horizon)
        if expired:
            self.slices = self.slices[len(expired) :]
        return expired

    def is_within(self, ended_at: float, now: float) -> bool:
        """Return whether a slice with this end is within the window that ends at `now`."""
        return ended_at > now - self.window_seconds

    def copy(self) -> SlidingWindow[T]:
        """Return a copy that stays as it is. Costs next to nothing: the slices are shared."""
        twin: SlidingWindow[T] = SlidingWindow.__new__(SlidingWindow)
        twin.window_seconds, twin.slice_seconds = self.window_seconds, self.slice_seconds
        twin.slices = self.slices
        return twin
