"""One step of an action that may concern many dead letters: which of them, and how far it came."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from shared_sync.dead_letters import DeadLetter, DeadLetterFilter, letter
from shared_sync.dead_letters.reading import LetterReader
from shared_sync.protocol.keys import id_is_after

Act = Callable[[Sequence[str], "Tally"], None]
"""Does something to some letters, and counts them in a tally as it goes."""


class Deadline:
    """The end of a step. For one thread."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        # Fixed after construction.
        self._clock = clock
        self._end = clock() + seconds

    def has_passed(self) -> bool:
        """Whether the step should end."""
        return self._clock() >= self._end


@dataclass(slots=True)
class Tally:
    """How far a step has come."""

    done: int = 0
    missing: int = 0
    """Letters that were gone: somebody else has replayed or purged them."""
    reached: str = ""
    """The last letter that was handled or passed over."""
    is_complete: bool = False
    """Whether no further step is needed."""

    @property
    def handled(self) -> int:
        """How many letters were done or gone."""
        return self.done + self.missing


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant: those that match, behind one id and not behind another."""

    where: DeadLetterFilter
    most: int
    up_to: str
    after: str


def matching(
    reader: LetterReader, where: DeadLetterFilter, after: str, deadline: Deadline
) -> Iterator[tuple[str, DeadLetter | None]]:
    """Return the letters that match, oldest first, without their fields.

    If the deadline passes, the last one is the id up to which was searched, with None.
    """
    for row in reader.rows(after):
        listed = letter.parse_row(row)
        if reader.matches(row, listed, where):
            yield row.id, listed
        if deadline.has_passed():
            yield row.id, None
            return


def act_on_ids(ids: Sequence[str], size: int, act: Act, tally: Tally, deadline: Deadline) -> None:
    """Act on these letters, `size` at a time, and at least once."""
    for first in range(0, len(ids), size):
        if first and deadline.has_passed():
            return
        act(ids[first : first + size], tally)
    tally.is_complete = True


def act_on_matching(
    reader: LetterReader,
    selection: Selection,
    size: int,
    act: Act,
    tally: Tally,
    deadline: Deadline,
) -> None:
    """Act on the letters of a selection, `size` at a time."""
    chosen: list[str] = []
    tally.is_complete = True
    for letter_id, listed in matching(reader, selection.where, selection.after, deadline):
        if selection.up_to and id_is_after(letter_id, selection.up_to):
            break
        if listed is None:
            tally.is_complete = False
            break
        chosen.append(letter_id)
        if tally.handled + len(chosen) == selection.most:
            break
        if len(chosen) == size:
            act(chosen, tally)
            chosen = []
    if chosen:
        act(chosen, tally)
    if not tally.is_complete:
        tally.reached = letter_id
