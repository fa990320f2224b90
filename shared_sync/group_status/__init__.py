"""How a group is, as seen from outside: its sizes, its consumers, and what is wrong in words.

For the rest of this library; the command `shared-sync status --json` is for others.
"""

from shared_sync.group_status.group_status import GroupStatus as GroupStatus
from shared_sync.group_status.limits import Limits as Limits
from shared_sync.group_status.problems import Problem as Problem
from shared_sync.group_status.status import Status as Status
from shared_sync.protocol.pause import Pause as Pause
from shared_sync.protocol.pausing import pause as pause
from shared_sync.protocol.pausing import resume as resume
