"""The fate of each message of a soak, and whether each that was accepted has ended once."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

EXPECTED_REASONS = {
    "reject": ("rejected", "crashed"),
    "hopeless": ("failed", "crashed"),
    "kill": ("crashed",),
    "stubborn": ("failed", "crashed"),
    "work": ("failed", "crashed"),
}
"""Why a message of each kind may become a dead letter. Any may have been in killed workers."""
NEVER_DONE = frozenset({"reject", "hopeless", "kill"})


@dataclass(slots=True)
class Fate:
    """What is known of one message."""

    id: str = ""
    acknowledged: bool = False
    act: str = ""
    done: int = 0
    """Results with status done."""
    dead: int = 0
    """Results with status dead."""
    letters: int = 0
    """Dead letters."""
    reason: str = ""
    runs: int = 0
    failed: int = 0
    rejected: int = 0
    completed: int = 0
    """Runs that came to their end."""

    @property
    def accepted(self) -> bool:
        """Whether it is or was in the stream: Redis answered so, or it has run or ended."""
        return bool(self.acknowledged or self.id or self.runs)

    @property
    def ended(self) -> bool:
        return bool(self.done or self.letters)


@dataclass(frozen=True)
class Totals:
    """The sums over all messages."""

    accepted: int
    acknowledged: int
    unknown: int
    """Messages whose publishing was not answered."""
    unknown_accepted: int
    """Those of them that were published all the same."""
    done: int
    dead: int
    deaths: Counter[str]
    innocent: int
    """Dead letters of messages that did nothing wrong: their workers were killed too often."""
    lost: int
    published_twice: int
    runs: int
    failed: int
    cut_off: int
    """Runs whose end is not noted: the process was killed, or taken down by another message."""
    done_again: int
    """Runs that were completed although another run of the message was completed too."""


class Ledger:
    """The fates of all messages by their number. Safe from any thread."""

    def __init__(self) -> None:
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._fates: defaultdict[int, Fate] = defaultdict(Fate)
        self._unknown: set[int] = set()
        self._problems: list[str] = []
        self._ended = 0

    # --- what happens ---

    def acknowledged(self, numbers: Sequence[int], ids: Sequence[str]) -> None:
        with self._lock:
            for number, message_id in zip(numbers, ids, strict=True):
                self._fates[number].acknowledged = True
                self._identify(number, message_id)

    def unanswered(self, numbers: Iterable[int]) -> None:
        """Published or not: the connection broke before the answer."""
        with self._lock:
            self._unknown.update(numbers)

    def ran(self, event: str, number: int) -> None:
        """A line of a worker's journal."""
        with self._lock:
            fate = self._fates[number]
            fate.runs += event == "run"
            fate.failed += event == "failed"
            fate.rejected += event == "rejected"
            fate.completed += event == "done"

    def result(self, number: int, message_id: str, status: str) -> None:
        with self._lock:
            fate = self._identify(number, message_id)
            if status == "done":
                self._ended += not fate.ended
                fate.done += 1
            else:
                fate.dead += 1

    def dead_letter(self, number: int, message_id: str, act: str, reason: str) -> None:
        with self._lock:
            fate = self._identify(number, message_id)
            self._ended += not fate.ended
            fate.letters += 1
            fate.act, fate.reason = act, reason

    def problem(self, text: str) -> None:
        """Note what must not happen and is about no single message."""
        with self._lock:
            self._problems.append(text)

    def _identify(self, number: int, message_id: str) -> Fate:
        fate = self._fates[number]
        if fate.id and fate.id != message_id:
            self._problems.append(f"message {number} has the ids {fate.id} and {message_id}")
        fate.id = message_id
        return fate

    # --- what became of them ---

    @property
    def ended(self) -> int:
        return self._ended

    @property
    def problems(self) -> list[str]:
        with self._lock:
            return list(self._problems)

    def totals(self) -> Totals:
        with self._lock:
            fates = [fate for fate in self._fates.values() if fate.accepted]
            deaths = Counter(fate.reason.split()[0].rstrip(":") for fate in fates if fate.letters)
            return Totals(
                accepted=len(fates),
                acknowledged=sum(fate.acknowledged for fate in fates),
                unknown=len(self._unknown),
                unknown_accepted=sum(
                    self._fates[number].accepted
                    for number in self._unknown
                    if number in self._fates
                ),
                done=sum(fate.done > 0 for fate in fates),
                dead=sum(fate.letters > 0 for fate in fates),
                deaths=deaths,
                innocent=sum(
                    fate.reason.startswith("crashed") and fate.act != "kill" for fate in fates
                ),
                lost=sum(not fate.ended for fate in fates),
                published_twice=sum(_published_twice(fate) for fate in fates),
                runs=sum(fate.runs for fate in fates),
                failed=sum(fate.failed for fate in fates),
                cut_off=sum(
                    fate.runs - fate.failed - fate.rejected - fate.completed for fate in fates
                ),
                done_again=sum(max(0, fate.completed - 1) for fate in fates),
            )

    def mistakes(self, act_of: Callable[[int], str]) -> dict[int, tuple[str, Fate]]:
        """Return the messages whose end is not as it should be, by number, and what is wrong."""
        with self._lock:
            found = {}
            for number, fate in self._fates.items():
                mistake = _mistake(fate, act_of(number)) if fate.accepted else ""
                if mistake:
                    found[number] = (mistake, fate)
            return found


def _published_twice(fate: Fate) -> bool:
    return fate.done + fate.letters > 1 or fate.done + fate.dead > 1


def _mistake(fate: Fate, act: str) -> str:
    """Return what is wrong with the end of an accepted message, or nothing."""
    if not fate.ended:
        return "it has not ended"
    if _published_twice(fate):
        return "it has ended more than once"
    if fate.dead != fate.letters:
        return "its result and its dead letter do not agree"
    if fate.done and act in NEVER_DONE:
        return f"a message that is to {act} is done"
    if fate.letters and not fate.reason.startswith(EXPECTED_REASONS[act]):
        return f"a message that is to {act} is a dead letter because of {fate.reason!r}"
    return ""
