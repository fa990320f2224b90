"""What is wrong with a group, in words, with what to do about it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared_sync.group_status.consumers import Consumer, ConsumerState, of_state
from shared_sync.group_status.history import History
from shared_sync.group_status.limits import Limits
from shared_sync.protocol.group_reading import GroupReading
from shared_sync.protocol.hazards import Hazard
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.survey import Survey

DEGRADED: Final = "degraded"
UNHEALTHY: Final = "unhealthy"
MOST_NAMED: Final = 3
"""Consumers that a text names."""

OVERDUE_SECONDS: Final = 5.0
"""How long after its time a scheduled job may be published."""

PAUSING_SECONDS: Final = 6.0
"""How long consumers may take to notice that the group is paused."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with a group."""

    name: str
    """What kind it is; it stays the same in all releases."""
    health: str
    """How bad it is: degraded or unhealthy."""
    text: str
    """In words, without a full stop."""
    remedy: str
    """What to do about it."""

    @property
    def reason(self) -> str:
        """The text with the remedy."""
        return f"{self.text}; {self.remedy}"

    def to_json(self) -> dict[str, Any]:
        """Return it as a page and `--json` show it."""
        return {
            "name": self.name,
            "health": self.health,
            "text": self.text,
            "remedy": self.remedy,
        }


def find(
    keys: Keys,
    limits: Limits,
    reading: GroupReading,
    survey: Survey,
    consumers: Sequence[Consumer],
    history: History,
    hazards: Sequence[Hazard],
    *,
    is_just_back: bool = False,
) -> list[Problem]:
    """Return the problems of a group, the worst first.

    `is_just_back` says that Redis was away until a moment ago, so that the leases say nothing.
    """
    if not reading.group_exists:
        return [
            Problem(
                "group_missing",
                DEGRADED,
                f"group {keys.group} of stream {keys.stream} does not exist",
                "the first worker creates it",
            )
        ]
    found = [
        *(() if is_just_back else _consumers(keys, reading, consumers)),
        *_queue(keys, limits, survey, reading, history),
        *(Problem(one.name, DEGRADED, one.text, one.remedy) for one in hazards),
    ]
    return sorted(found, key=lambda problem: problem.health != UNHEALTHY)


# --- consumers ----------------------------------------------------------------------------------


def _consumers(
    keys: Keys, reading: GroupReading, consumers: Sequence[Consumer]
) -> Iterator[Problem]:
    live = of_state(consumers, ConsumerState.LIVE)
    silent = of_state(consumers, ConsumerState.SILENT)
    dead = of_state(consumers, ConsumerState.DEAD)
    if not live and not silent:
        yield from _nobody(keys, reading, dead)
    if silent:
        yield _silent(silent, others_live=bool(live))
    left = [one for one in dead if one.pending]
    if left:
        yield _left_behind(left, reading, others_live=bool(live))
    if reading.pause is not None:
        since = (reading.now_ms - reading.pause.at_ms) / 1000
        busy = [one for one in live if not one.has_paused]
        if busy and since > PAUSING_SECONDS:
            yield Problem(
                "not_paused",
                DEGRADED,
                f"the group is paused, and {_names(busy)} {_do(busy, 'takes', 'take')} messages "
                "all the same",
                "an earlier release does not know the pause: upgrade or stop these workers",
            )


def _nobody(keys: Keys, reading: GroupReading, dead: Sequence[Consumer]) -> Iterator[Problem]:
    """Say what is not done because no consumer lives; nothing if there is nothing to do.

    A group that is paused needs no consumer, unless they have died.
    """
    if reading.pause is not None and not dead:
        return
    waiting, pending = reading.waiting, reading.pending
    text = f"no consumer of group {keys.group} is alive"
    scheduled_ms = reading.next_scheduled_ms
    is_overdue = scheduled_ms is not None and (
        scheduled_ms + 1000 * OVERDUE_SECONDS < reading.now_ms
    )
    if waiting or pending:
        wait = [f"{_messages(waiting)} {'waits' if waiting == 1 else 'wait'}"] if waiting else []
        left = f"{_messages(pending)} {'was' if pending == 1 else 'were'} left unfinished"
        text += f", and {' and '.join([*wait, *([left] if pending else [])])}"
    elif is_overdue:
        text += ", and scheduled jobs are due that nobody publishes"
    elif dead:
        text += f": {_names(dead)} died without leaving the group"
    else:
        return
    yield Problem("no_live_consumer", UNHEALTHY, text, "start a worker")


def _silent(silent: Sequence[Consumer], *, others_live: bool) -> Problem:
    longest = max(one.last_heartbeat_seconds or 0.0 for one in silent)
    left = max(one.lease_seconds_left or 0.0 for one in silent)
    pending = sum(one.pending for one in silent)
    text = (
        f"{_names(silent)} {_do(silent, 'has', 'have')} sent no heartbeat for {longest:.0f} s: "
        f"{_do(silent, 'it was', 'they were')} killed, cannot reach Redis, or "
        f"{_do(silent, 'is', 'are')} held up by code that holds the interpreter lock"
    )
    if pending:
        text += f". In {left:.0f} s {_do(silent, 'its lease ends', 'their leases have ended')}; "
        text += f"then another worker takes over {_messages(pending)}"
    where = ", ".join(dict.fromkeys(one.process for one in silent[:MOST_NAMED]))
    remedy = f"look at {where}" + ("" if others_live else ", or start another worker")
    return Problem("consumer_silent", DEGRADED if others_live else UNHEALTHY, text, remedy)


def _left_behind(dead: Sequence[Consumer], reading: GroupReading, *, others_live: bool) -> Problem:
    pending = sum(one.pending for one in dead)
    longest = max(one.last_heartbeat_seconds or 0.0 for one in dead)
    text = (
        f"{_messages(pending)} {'belongs' if pending == 1 else 'belong'} to the dead {_names(dead)}"
    )
    if longest:
        which = _do(dead, "which sent its last heartbeat", "of which one sent its last heartbeat")
        text += f", {which} {longest:.0f} s ago"
    if reading.pause is not None:
        text += "; while the group is paused, nobody takes them over"
        remedy = "resume the group; a free worker then takes them over"
    elif others_live:
        remedy = (
            "a free worker takes them over within seconds; if they stay, all workers are busy, or "
            "each of these messages has killed a process and runs alone: start more workers"
        )
    else:
        remedy = "start a worker, which takes them over"
    return Problem("pending_of_dead_consumers", DEGRADED, text, remedy)


# --- the queue ----------------------------------------------------------------------------------


def _queue(
    keys: Keys, limits: Limits, survey: Survey, reading: GroupReading, history: History
) -> Iterator[Problem]:
    waited, limit = survey.oldest_waiting_seconds, limits.max_wait_seconds
    is_paused = reading.pause is not None
    if limit is not None and waited is not None and waited > limit and not is_paused:
        yield Problem(
            "waits_long",
            DEGRADED,
            f"the oldest message has waited for {waited:.0f} s, the limit is {limit:g} s",
            "start more workers, or find out what they wait for",
        )
    growth = None if is_paused else history.growth(waited)
    if growth is not None:
        digits = 0 if growth.seconds >= 10 else 1
        text = f"for {growth.seconds:.{digits}f} s more messages have arrived than were finished"
        if growth.arrived is not None:
            text += f" ({growth.arrived} against {growth.finished})"
        text += f", and {growth.waiting} wait"
        yield Problem("arrivals_exceed_completions", DEGRADED, text, "start more workers")
    dead = history.dead_share()
    if dead is not None:
        share = f"more than {100 * (limits.max_dead_share or 0.0):.0f} %"
        which = "messages that have ended so far" if dead.is_whole else "messages"
        many = f"{dead.ended}" if dead.is_whole else f"last {dead.ended}"
        yield Problem(
            "dead_share",
            DEGRADED,
            f"{dead.died} of the {many} {which} became dead letters, {share}",
            "list the dead letters for their causes: shared-sync dead-letters list --stream "
            f"{shlex.quote(keys.stream)} --group {shlex.quote(keys.group)}",
        )


# --- words --------------------------------------------------------------------------------------


def _names(consumers: Sequence[Consumer]) -> str:
    """Return the names of consumers, of many only the first."""
    named = ", ".join(one.name for one in consumers[:MOST_NAMED])
    more = len(consumers) - MOST_NAMED
    which = "consumer" if len(consumers) == 1 else "consumers"
    return f"{which} {named}" + (f" and {more} more" if more > 0 else "")


def _do(consumers: Sequence[Consumer], one: str, several: str) -> str:
    return one if len(consumers) == 1 else several


def _messages(number: int) -> str:
    return "1 message" if number == 1 else f"{number} messages"
