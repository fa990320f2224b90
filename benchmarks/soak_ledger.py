"""What soak.py knows of each message, and whether each that was accepted has ended once."""

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
"""How a message of each kind may die: any of them may have been in the hands of killed workers."""
MUST_DIE = frozenset({"reject", "hopeless", "kill"})


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
        """It is in, or was: Redis said so, or somebody has seen it."""
        return bool(self.acknowledged or self.id or self.runs)

    @property
    def ended(self) -> bool:
        return bool(self.done or self.letters)


@dataclass(frozen=True)
class Figures:
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
    """Messages that did nothing wrong and died of the crashes of others."""
    lost: int
    published_twice: int
    runs: int
    failed: int
    cut_off: int
    """Runs whose end is not noted: their process was killed, or killed by a neighbour."""
    done_again: int
    """Runs that were completed although another run of the message was, too."""


class Ledger:
    """The fates of all messages by their number. Safe from any thread."""

    def __init__(self) -> None:
        # Guarded by the lock.
        self._lock = threading.Lock()
        self._fates: defaultdict[int, Fate] = defaultdict(Fate)
        self._unknown: set[int] = set()
        self._troubles: list[str] = []
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

    def letter(self, number: int, message_id: str, act: str, reason: str) -> None:
        with self._lock:
            fate = self._identify(number, message_id)
            self._ended += not fate.ended
            fate.letters += 1
            fate.act, fate.reason = act, reason

    def trouble(self, text: str) -> None:
        """Something that must not be and is about no single message."""
        with self._lock:
            self._troubles.append(text)

    def _identify(self, number: int, message_id: str) -> Fate:
        fate = self._fates[number]
        if fate.id and fate.id != message_id:
            self._troubles.append(f"message {number} has the ids {fate.id} and {message_id}")
        fate.id = message_id
        return fate

    # --- what it comes to ---

    @property
    def ended(self) -> int:
        return self._ended

    @property
    def troubles(self) -> list[str]:
        with self._lock:
            return list(self._troubles)

    def figures(self) -> Figures:
        with self._lock:
            fates = [fate for fate in self._fates.values() if fate.accepted]
            deaths = Counter(fate.reason.split()[0].rstrip(":") for fate in fates if fate.letters)
            return Figures(
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
                published_twice=sum(_doubled(fate) for fate in fates),
                runs=sum(fate.runs for fate in fates),
                failed=sum(fate.failed for fate in fates),
                cut_off=sum(
                    fate.runs - fate.failed - fate.rejected - fate.completed for fate in fates
                ),
                done_again=sum(max(0, fate.completed - 1) for fate in fates),
            )

    def wrongs(self, act_of: Callable[[int], str]) -> dict[int, tuple[str, Fate]]:
        """The messages whose end is not as it should be, by number, and what is wrong."""
        with self._lock:
            found = {}
            for number, fate in self._fates.items():
                wrong = _wrong(fate, act_of(number)) if fate.accepted else ""
                if wrong:
                    found[number] = (wrong, fate)
            return found


def _doubled(fate: Fate) -> bool:
    return fate.done + fate.letters > 1 or fate.done + fate.dead > 1


def _wrong(fate: Fate, act: str) -> str:
    """What is wrong with the end of an accepted message, if anything."""
    if not fate.ended:
        return "it has not ended"
    if _doubled(fate):
        return "it has ended more than once"
    if fate.dead != fate.letters:
        return "its result and its dead letter do not agree"
    if fate.done and act in MUST_DIE:
        return f"a message that is to {act} is done"
    if fate.letters and not fate.reason.startswith(EXPECTED_REASONS[act]):
        return f"a message that is to {act} died of {fate.reason!r}"
    return ""
