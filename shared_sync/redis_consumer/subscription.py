"""A subscription: one stream and group that a pool reads, with all that belongs to it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from shared_sync.common.guarded import Logger, Recorder
from shared_sync.connection import client_names, discovery, url
from shared_sync.connection import connection as redis_connection
from shared_sync.connection.connection import Connect, Connection
from shared_sync.errors import GroupMissing, RedisAccessDenied, RedisRefused, SharedSyncError
from shared_sync.group_status import GroupStatus
from shared_sync.protocol import groups, inspection, key_types, pausing
from shared_sync.protocol.commands import GroupCommands
from shared_sync.protocol.groups import Ensured
from shared_sync.protocol.inspection import GroupView
from shared_sync.protocol.live_job import JobContext
from shared_sync.protocol.pause import Pause
from shared_sync.protocol.process_identity import ProcessIdentity
from shared_sync.protocol.scan import Predecessor
from shared_sync.redis_consumer import identity
from shared_sync.redis_consumer.identity import NameWait
from shared_sync.redis_consumer.in_flight import InFlight
from shared_sync.redis_consumer.jobs.cancellations import Cancellations
from shared_sync.redis_consumer.name_lock import NameLock
from shared_sync.redis_consumer.options import Options
from shared_sync.redis_consumer.recovery import Recovery
from shared_sync.redis_consumer.server_clock import ServerClock
from shared_sync.redis_consumer.worker_events import WorkerEvents

SHORTEST_REPLY_SECONDS = 0.5
HAND_BACK_STEP = 100
MOST_NAMED = 5
"""Other groups that are named in the log."""


class Subscription:
    """The keys, commands, claimed name and recovery of one stream and group.

    Any thread may use it; `claim_name()` comes before the threads start.
    """

    def __init__(
        self,
        options: Options,
        *,
        in_flight: InFlight,
        events: WorkerEvents,
        recorder: Recorder,
        logger: Logger,
    ) -> None:
        # Fixed after construction.
        self._options = options
        self._in_flight = in_flight
        self._events = events
        self._recorder = recorder
        self._logger = logger
        self.reply_seconds = options.block_seconds + redis_connection.REPLY_MARGIN_SECONDS
        """How long a reader waits for a reply."""
        self.commands = GroupCommands(
            keys=options.keys,
            consumer=options.consumer_id,
            lease_ms=round(options.lease_seconds * 1000),
            result_stream=options.fixed_result_stream,
        )
        self.server_clock = ServerClock()
        self.jobs = JobContext(
            options.keys,
            is_cluster=url.read(options.redis_url).is_cluster,
            server_time=self.server_clock.now,
            max_age_seconds=options.max_age_seconds,
        )
        """What its messages need while they run."""
        self.cancellations = Cancellations(self.commands, logger)
        self.recovery = Recovery(
            commands=self.commands,
            in_flight=in_flight,
            own_idle_seconds=self.reply_seconds,
            foreign_idle_seconds=options.effective_foreign_idle_seconds,
            max_crashes=options.max_crashes,
            recorder=recorder,
            logger=logger,
            on_taken_over=events.taken_over,
        )
        self.group_view = GroupView(
            self.connector(inspection.REPLY_TIMEOUT_SECONDS),
            options.keys,
            parts={"status": GroupStatus(options.keys).read_json},
        )
        # Owned by whoever connects.
        self._identity: ProcessIdentity | None = None
        self._lock = NameLock(options.keys, options.consumer_id)
        self._predecessor = Predecessor.READ_SEVERAL
        self._since_ms = 0
        self.has_name = False
        """Whether the consumer's name is claimed."""
        self.name_wait: NameWait | None = None
        """What the claim of the name is waiting for; replaced as a whole."""
        self.pause: Pause | None = None
        """Who had paused the group when the name was claimed."""

    def connector(self, reply_seconds: float) -> Connect:
        """Return what makes connections that wait so long for a reply."""
        return discovery.connector(
            self._options.redis_url,
            key=self._options.stream_name,
            reply_timeout_seconds=reply_seconds,
            client_name=client_names.of_consumer(self._options.consumer_id),
            credential_provider=self._options.credential_provider,
        )

    def connection(self) -> Connection:
        """Return a new connection for a reader, which connects when it is first used."""
        return Connection(self.connector(self.reply_seconds))

    def forget_name(self) -> None:
        """Note that another process has claimed the name: the one that this was forked from."""
        self._identity = None
        self.has_name = False
        self._lock.forget()

    def claim_name(self, give_up: Callable[[float], bool]) -> bool:
        """Create the group unless it exists, check the rights, and claim the consumer's name.

        Returns False if `give_up` ended the wait for the name. Blocks and raises as
        `RedisStreamConsumer.connect()` says.
        """
        if self._identity is None:
            self._identity = ProcessIdentity.here(
                prefetch=self._options.most_prefetched, lease_ms=self.commands.lease_ms
            )
            self.commands.identity = self._identity.text()
            self.commands.reads_one_by_one = self._options.effective_prefetch == "auto"
        connection = self.connection()
        try:
            ensured = groups.ensure_group(connection, self.commands)
            key_types.check(connection, self.commands.keys, self._options.fixed_result_stream)
            if ensured is Ensured.CREATED:
                self._report_new_group(connection)
            elif ensured is Ensured.MAY_NOT_CREATE:
                self._logger.warning(
                    "this worker's user may not create group %s of stream %s anew if it is lost; "
                    "grant it +xgroup|create, or see to that yourself",
                    self._options.consumer_group,
                    self._options.stream_name,
                )
            groups.check_rights(connection, self.commands)
            claimed = identity.claim(
                connection,
                self.commands,
                self._logger,
                server_clock=self.server_clock,
                give_up=give_up,
                has_ended=self._has_ended,
                on_wait=self._note_wait,
            )
            self.has_name = claimed is not None
            if claimed is None:
                return False
            if self._options.has_own_id:  # any other name is never claimed again
                self._lock.hold(self._identity)
            self._note_predecessor(claimed.before)
            self._since_ms = claimed.since_ms
            self.pause = pausing.read(connection, self.commands.keys)
        finally:
            self.name_wait = None
            connection.close()
        self.recovery.name_claimed(claimed.since_ms, self._predecessor)
        return True

    def _report_new_group(self, connection: Connection) -> None:
        """Log that the group is new: a slip in its name would run every message a second time, and
        one in the name of the stream would wait for messages for ever."""
        stream, group = self._options.stream_name, self._options.consumer_group
        others = [one for one in groups.group_names(connection, stream) if one != group]
        connection.call(*self.commands.sweep(is_new=True))
        if not others:
            is_empty = connection.call("XLEN", stream) == 0
            self._logger.info(
                "created the group %s of stream %s%s",
                group,
                stream,
                ", which is new or empty" if is_empty else "",
            )
            return
        named = ", ".join(others[:MOST_NAMED]) + (", ..." if len(others) > MOST_NAMED else "")
        self._logger.warning(
            "created a new group %s of stream %s, which has other groups already: %s. The new "
            "group gets every message, too, also those that are there, and none is deleted before "
            "all groups have finished it. If the name is wrong, stop this worker and remove the "
            "group: shared-sync groups drop --stream %s %s",
            group,
            stream,
            named,
            shlex.quote(stream),
            shlex.quote(group),
        )

    def _has_ended(self, process: ProcessIdentity) -> bool:
        return process.has_ended() or self._lock.proves_the_end_of(process)

    def _note_wait(self, wait: NameWait) -> None:
        self.name_wait = wait

    def _note_predecessor(self, before: bytes | None) -> None:
        """Note what is known of who had the name before, unless that was this process already."""
        if before is None:
            self._predecessor = Predecessor.FOREIGN
        elif not before.startswith(self.commands.identity.encode()):
            process = ProcessIdentity.parse(before.decode(errors="replace"))
            read_singly = process is not None and process.prefetch == 1
            self._predecessor = Predecessor.READ_SINGLY if read_singly else Predecessor.READ_SEVERAL

    def explain_wrong_type(self, error: RedisRefused) -> RedisRefused:
        """Return the error with the keys that hold something else than they should.

        A script does not say which of its keys it means. Returns the same error if Redis does not
        answer.
        """
        connection = self.connection()
        try:
            wrong = key_types.find_wrong(
                connection, self.commands.keys, self._options.fixed_result_stream
            )
        except SharedSyncError:
            return error
        finally:
            connection.close()
        return (
            RedisRefused(f"WRONGTYPE {key_types.describe(wrong)}", code=error.code)
            if wrong
            else error
        )

    def repair_group(self) -> None:
        """Create the group anew if it is gone. Raises what the connection raises."""
        connection = self.connection()
        try:
            if groups.ensure_group(connection, self.commands) is Ensured.CREATED:
                connection.call(*self.commands.sweep(is_new=True))
                self._recorder.increment_counter("groups_recreated")
                self._logger.warning(
                    "the group %s of stream %s was gone and is created anew; messages that were "
                    "deleted with it are lost",
                    self._options.consumer_group,
                    self._options.stream_name,
                )
        finally:
            connection.close()

    def leave(self, seconds_left: float, spare: Connection | None = None) -> bool:
        """Hand back all that is still this consumer's, and sign off; whether that went well.

        Does so over a new connection, whose time limit fits. If none can be made, as where the
        server has `maxclients`, over the spare one, unless that is closed.
        """
        deadline = time.monotonic() + seconds_left
        reply_seconds = max(seconds_left, SHORTEST_REPLY_SECONDS)
        reply_seconds = min(reply_seconds, redis_connection.REPLY_MARGIN_SECONDS)
        connection = Connection(self.connector(reply_seconds))
        try:
            try:
                self._leave_over(connection)
            except SharedSyncError:
                if spare is None or not spare.is_open or time.monotonic() >= deadline:
                    raise
                self._leave_over(spare)
        except SharedSyncError as error:
            self._logger.warning("messages could not be handed back: %s", error)
            return False
        finally:
            connection.close()
        self._lock.release()
        return True

    def _steps_to_leave(self, connection: Connection) -> Iterator[tuple[int, int]]:
        """Yield how many messages each step has handed back, and of how many the entry was gone."""
        # By name what still runs: it is not pending if others have deleted the consumer.
        in_flight = sorted(self._in_flight.ids(self.commands.keys))
        for start in range(0, len(in_flight), HAND_BACK_STEP):
            part = in_flight[start : start + HAND_BACK_STEP]
            yield connection.call(*self.commands.hand_back(part))
        more = True
        while more:
            returned, lost_bodies, more = connection.call(
                *self.commands.leave(self._since_ms, self._predecessor)
            )
            yield returned, lost_bodies

    def _leave_over(self, connection: Connection) -> None:
        returned = 0
        # First, because a worker whose report is there without a lease is taken for dead.
        if (command := self._events.sign_off(self.commands)) is not None:
            with suppress(RedisRefused, RedisAccessDenied):
                connection.call(*command)
        try:
            for step_returned, lost_bodies in self._steps_to_leave(connection):
                returned += step_returned
                self._recorder.increment_counter("jobs_handed_back", step_returned)
                if lost_bodies:
                    self._recorder.increment_counter("lost_bodies", lost_bodies)
        except GroupMissing:
            pass
        finally:
            if returned:
                self._logger.info("%d messages handed back", returned)
