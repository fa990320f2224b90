"""What the frames between a process and its child mean."""

from __future__ import annotations

from typing import Final

# From the parent, over the channel for jobs.
LOAD: Final = 1
"""What to load, and how to be set up. The first frame."""
JOB: Final = 2
"""Messages to run: [id, deliveries, number of items] for each; the parts are their items. Beside
them, `number` is that of the attempt, `resume` has what is stored of the progress of earlier
attempts, by the ids of their messages, and `clock`, if a message has options, is the server's time
less the reading of the monotonic clock, which is the same in both processes. With tracing, `trace`
is the context of the attempt: traceparent and tracestate."""
CLOSE: Final = 3
"""Close the processor and end."""

# From the child, over the same.
READY: Final = 4
"""The processor is loaded."""
FAILED: Final = 5
"""Loading the processor has failed, or a job as a whole: the described error."""
DONE: Final = 6
"""The messages of a job have run: for each None, an answer or a described error. The parts are
those of the answers, and then what was emitted, if anything: `jobs` has [place of the message,
whether it forwards the reply, [stream, number of items] for each] of those that did. `progress` has
the last progress of each message, in the form of PROGRESS, also if the job has failed."""

# From the child, over the channel beside that.
LOG: Final = 7
"""A log record."""
METRICS: Final = 8
"""What was recorded since the last time."""

# From the parent, over the channel beside that.
END: Final = 9
"""The SIGTERM that follows is the parent's: end, although a message runs."""
CANCEL: Final = 10
"""Messages that are cancelled: a list of ids."""

# From the child, over the same.
PROGRESS: Final = 11
"""The progress of a message that runs: the number of its attempt, its id, a number that grows with
each progress of the attempt, and what was reported as it is stored."""
