"""DeadLetters: lists, replays, removes, exports and imports the messages that were given up on."""

from shared_sync.dead_letters.dead_letters import DeadLetters, Imported
from shared_sync.dead_letters.filters import DeadLetterFilter
from shared_sync.dead_letters.letter import DeadLetter

__all__ = ["DeadLetter", "DeadLetterFilter", "DeadLetters", "Imported"]
