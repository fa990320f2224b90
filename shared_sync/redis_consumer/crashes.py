"""Crash accounting: what is charged, when a message is given up on, and what may run beside it.

A *crash* is a delivery that ended in neither success, failure nor hand-back: the process that ran
the message died, or was taken for dead, while it had the message. The server counts deliveries and
`history` counts failures, so nobody has to note a crash for it to count:

    crashes = deliveries before this one - failures

Who is charged depends on which process died:

- *The consumer's process.* Nobody is left to say anything. Whoever takes its messages over charges
  each of them, because nobody knows which one was the cause.
- *The child of one reader* (`isolation="process"`). The consumer lives on and knows which message
  the child was running, and charges that one alone: it parks it without a line in `history`, for
  the delay of the retry policy, `LONGEST_DELAY_SECONDS` at most. Nothing else that the consumer has
  in flight was in that child, so nothing else is charged. At `max_crashes` the consumer buries the
  message at once.

Either way it is the same count, so a message may have crashes of both kinds, and workers of earlier
releases understand it.

Only deliveries by this library count. A name with neither a lease nor a claim on record (keys
`presence` and `holders`) is another program's, such as one that reads the same group with another
library: what it did to a message before is not the message's fault. Taking a message over from it
sets the count of deliveries to those that the message's history records, so that the takeover is
the first delivery of a message without a history. A known crash still counts: one of the keys is
enough to know a name, because the other one is restored from it; and the last failure in the
history has the number of its delivery, which includes earlier crashes. Crashes since then are
forgotten if another library takes the message while it is parked.

Example: another library has delivered A four times and B once, and is switched off. A and B are
taken over as their first deliveries, with no crash, so they may come together. Their worker dies in
A: both have one crash. C failed here once after a crash (deliveries 2, failures 1) and waits for
its retry when another library takes it, twice; taken over from there, it is delivered for the third
time and still has its one crash.

A consumer's process that dies takes all of its messages down with it. Each is then a *suspect*, a
message with a crash behind it. The rules, which `protocol/lua/recover.lua` applies while it takes
messages over, protect messages that were not the cause:

1. A message with `max_crashes` crashes is given up on. It is only taken over to be buried.
2. A suspect is taken over alone: it waits behind nothing, and nothing waits behind it.
3. One that has a single crash left runs beside no other suspect, so that another's crash does not
   take its last chance.
4. Messages of one read run again one at a time in a process, unless their dead consumer read one
   message at a time: whichever of them was the cause, it does not take the others down twice.
5. While one reader looks for suspects and its reply is on its way, no other reader looks for any:
   what may run beside the one that is coming is not known yet.

A suspect counts as running until Redis has confirmed its outcome: until then it is charged if the
process dies.

Rules 2 to 5 are about deaths of the whole process. With children they still apply, to suspects of
either kind: the count does not say how a message has crashed, it may come to a worker whose
messages run in threads, and a message that brings down its child, such as by using up the memory
of the machine, may bring down the consumer next. Rule 4 finds nothing to do after the death of a
child: the message was parked, and no read of a dead consumer has left it.

Example with `max_crashes=3`: a worker with one thread has read A, B and C and dies. All three have
two deliveries when they are taken over, so one crash each. A runs first, alone in its process, and
ends well. B runs, and the process dies again: it was B. C is still with the first dead worker's
messages, and its count does not change. B has two crashes now, a last chance, and runs beside no
suspect; it crashes a third time and becomes a dead letter. C runs and ends well, with one crash.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from shared_sync.protocol.messages import Entry, Read

LONGEST_DELAY_SECONDS: Final = 60
"""How long a message waits at most that has crashed in a child. `common.lua` says the same: no
record tells how long it was to wait, so this is what is believed after the clock was set back."""


def is_given_up(entry: Entry, max_crashes: int) -> bool:
    """Return whether a message took its process down too often to be run again."""
    return entry.crashes >= max_crashes


def reason(count: int) -> str:
    """Return why a message is given up on that has crashed so often."""
    return f"crashed: its process died {count} times" if count > 1 else "crashed: its process died"


def suspects(entries: Iterable[Entry]) -> list[Entry]:
    """Return the messages that have a crash behind them."""
    return [entry for entry in entries if entry.deliveries > 1 and entry.crashes]


def startable_crashes(running: Iterable[Entry], max_crashes: int) -> int:
    """Return how many crashes a message may have behind it to start beside these suspects.

    With `max_crashes=3`: any number if there is none; up to 1 beside those with 1; none beside one
    with 2.
    """
    worst = max((entry.crashes for entry in running), default=0)
    if worst == 0:
        return max_crashes
    return max_crashes - 2 if worst < max_crashes - 1 else 0


def reads_to_keep_apart(running: Iterable[Entry]) -> set[Read]:
    """Return the reads of dead consumers of which a suspect runs, so that no other may start."""
    return {entry.left_by for entry in running if entry.left_by is not None}
