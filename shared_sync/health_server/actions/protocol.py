"""What a health server needs to let operators act: an object that does what they ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Data = Mapping[str, Any]
"""An answer that fits into JSON."""


class Actions(Protocol):
    """Acts on one stream and group. `shared_sync.group_actions.GroupActions` does.

    One background thread calls the methods, one call at a time. A call may block, and ought to
    return within some seconds: what takes longer is done in steps, and the answer says in `next`
    behind which id the next step begins, or None if all is done. Each method may raise: a
    `ConfigurationError` for an argument that cannot work, `DeadLetterMissing` for a letter that is
    gone, any other `SharedSyncError` if Redis refuses or does not answer.

    `where` has the names and values of a `DeadLetterFilter`. `by` is the name that the operator has
    typed, which nobody has verified. docs/health.md describes the answers.
    """

    @property
    def stream(self) -> str:
        """The name of the stream, for the page."""

    @property
    def group(self) -> str:
        """The name of the group, for the page."""

    def causes(self, *, after: str) -> Data:
        """Count the dead letters of each cause behind an id, in this step."""

    def letters(self, *, where: Data, after: str, limit: int) -> Data:
        """List dead letters that match, behind an id, oldest first."""

    def letter(self, *, id: str) -> Data:
        """Return all that is known about one dead letter."""

    def replay(
        self, *, by: str, ids: Sequence[str], where: Data, most: int, up_to: str, after: str
    ) -> Data:
        """Publish the messages of dead letters again.

        Those in `ids`, or, without ids, up to `most` of those that match `where`, behind the id
        `after` and not behind the id `up_to`.
        """

    def purge(
        self, *, by: str, ids: Sequence[str], where: Data, most: int, up_to: str, after: str
    ) -> Data:
        """Delete dead letters for good, chosen as for `replay()`."""

    def find(self, *, message_id: str) -> Data:
        """Return where a message is now."""

    def pause(self, *, by: str, reason: str) -> Data:
        """Let the consumers of the group take no messages until `resume()`."""

    def resume(self, *, by: str) -> Data:
        """End a pause."""


METHODS = ("causes", "letters", "letter", "replay", "purge", "find", "pause", "resume")
"""The names of the methods of `Actions`."""
