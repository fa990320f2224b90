"""A locked file that shows that the process which had a consumer's name has ended.

A process that is restarted in its container has another pid namespace, where the pid of the earlier
one means nothing. But it often has the same files, and the kernel unlocks a file when the process
that has locked it ends, however it ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from shared_sync.protocol.keys import Keys
from shared_sync.protocol.process_identity import ProcessIdentity

try:
    import fcntl
except ImportError:  # on Windows: then nothing is known
    fcntl = None  # type: ignore[assignment]

LONGEST_TEXT: Final = 1000


class NameLock:
    """The lock of one consumer's name, in the folder for temporary files. For one thread.

    It proves the end of a process and nothing else: whatever goes wrong, nothing is proved. The
    file has the identity of the process that has locked it, and the number of its inode, which no
    copy of the file has.
    """

    def __init__(self, keys: Keys, consumer: str) -> None:
        names = "\0".join((keys.stream, keys.group, consumer))
        digest = hashlib.sha256(names.encode()).hexdigest()[:16]
        self._name = f"shared_sync-{digest}.lock"  # fixed after construction
        # Owned by the thread.
        self._file: int | None = None

    def hold(self, identity: ProcessIdentity) -> None:
        """Lock the file for this process, until `release()` or the end of the process."""
        self._close()
        with suppress(OSError):
            self._file = file = self._open(os.O_CREAT)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Locked first: whoever reads this identity there knows that its process locked it.
                os.ftruncate(file, 0)
                os.write(file, _text(file, identity))
            except OSError:
                self._close()

    def proves_the_end_of(self, identity: ProcessIdentity) -> bool:
        """Return whether that process is known to have ended: it had the lock, which is free."""
        if not identity.is_of_this_boot():
            return False  # its files may only look the same
        with suppress(OSError):
            file = self._open(0)
            try:
                if os.read(file, LONGEST_TEXT) == _text(file, identity):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return True
            finally:
                os.close(file)
        return False

    def release(self) -> None:
        """Remove the file, as the name is given up."""
        if self._file is not None:
            with suppress(OSError):
                self._path().unlink()
            self._close()

    def forget(self) -> None:
        """Close this process's copy of a lock that the process which it was forked from has."""
        self._close()

    def _path(self) -> Path:
        return Path(tempfile.gettempdir()) / self._name

    def _open(self, flags: int) -> int:
        """Open the file; raises OSError, also if somebody else has made it."""
        if fcntl is None:
            raise OSError("there are no such locks on this system")
        file = os.open(self._path(), os.O_RDWR | os.O_NOFOLLOW | flags, 0o600)
        if os.fstat(file).st_uid != os.geteuid():
            os.close(file)
            raise OSError("the file belongs to another user")
        return file

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _text(file: int, identity: ProcessIdentity) -> bytes:
    return json.dumps([identity.token, os.fstat(file).st_ino]).encode()
