"""Random histories of consumers, each step compared with a model of the protocol.

Three consumers of one group, and one of a second, read, finish, fail, crash, freeze, drain and
come back in every order that hypothesis thinks of, while replies are lost, commands arrive late,
hints and entries are deleted and groups are destroyed. `protocol_model` says what each step must
come to. At the end two survivors process what is left.

`MODEL_EXAMPLES=500 pytest tests/protocol/test_model.py` tries that many histories.
"""

from __future__ import annotations

import os

import pytest
import redis
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from protocol_client import KEYS, GroupAdmin
from protocol_model import commands, snapshot
from protocol_model.events import EVENTS
from protocol_model.messages import LEASE, NEEDED, Place
from protocol_model.world import GROUP_OF, TICK_MS, Consumer, World

from shared_sync.connection.connection import Connection
from shared_sync.protocol import commands as group_commands
from shared_sync.protocol.messages import Finish

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "60"))
STEPS = 50


class Histories(RuleBasedStateMachine):
    """Draws what happens in a world, and checks the world after each step."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        """One rule for all events, so that they have weights.

        Hypothesis likes the beginning of a list, so every kind of event is found there.
        """
        possible = {name: one for name, one in EVENTS.items() if one.is_possible(self.world)}
        heaviest = max(one.weight for one in possible.values())
        names = [
            name for turn in range(heaviest) for name, one in possible.items() if one.weight > turn
        ]
        chosen = possible[data.draw(st.sampled_from(names))]
        details = data.draw(chosen.details)
        with self.world.judged():
            chosen.happen(self.world, **details)

    @invariant()
    def all_is_as_the_model_says(self) -> None:
        with self.world.judged():
            snapshot.check(self.world)

    def teardown(self) -> None:
        """All of them die, and a survivor in each group processes what is left."""
        world = self.world
        if world.has_failed:
            return
        survivors = self._replace_all_by_survivors()
        more = True
        while more:
            more = False
            for survivor in survivors:
                more = self._process_some(survivor) or more
            snapshot.check(world)
        dropped = {n for side in world.sides.values() for n in side.model.of(Place.DROPPED)}
        assert world.stream.bodies <= dropped
        for side in world.sides.values():
            assert side.model.of(*NEEDED) == []
            assert side.admin.pending() == {}
            assert side.admin.due() == {}
            # Histories of messages that went with their group or their consumer may be left.
            left = [side.model.messages[number] for number in side.model.history]
            assert all(one.begun_anew or one.place is Place.DROPPED for one in left)

    def _replace_all_by_survivors(self) -> list[Consumer]:
        note("all die but one of each group")
        world = self.world
        for consumer in world.consumers.values():
            consumer.dead = True
        world.shift(1)
        for side in world.sides.values():
            for name in GROUP_OF:
                side.admin.end_lease(name)
                side.model.presence[name] = world.stream.now
        survivors = [
            world.start(name, group_name)
            for name, group_name in (("s1", "workers"), ("s2", "second"))
        ]
        world.consumers.update({one.name: one for one in survivors})
        commands.pass_time(world, 100)
        return survivors

    def _process_some(self, survivor: Consumer) -> bool:
        """Return whether there may be more to process."""
        world = self.world
        commands.heartbeat(world, survivor)
        # Messages without an entry do not get older here.
        found = commands.recover(world, survivor, foreign_idle=0)
        assert found is not None
        if not found.entries:
            commands.read(world, survivor, 10, "received")
        outcomes = {
            number: Finish(world.ids[number], commands.answer(number, "done").items)
            for number in list(survivor.in_flight)
        }
        if outcomes:
            commands.settle(world, survivor, outcomes, "received")
        return bool(outcomes) or found.lost_bodies > 0 or found.more


@pytest.mark.parametrize("begins_with", [1, 2])
def test_whatever_happens_to_a_group_no_message_is_lost_and_none_has_two_results(
    begins_with: int,
    client: redis.Redis,
    connection: Connection,
    admin: GroupAdmin,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_commands, "LONGEST_GRACE_MS", LEASE * TICK_MS)
    keeps_lost_bodies = not admin.drops_deleted_bodies_on_claim()

    def begin() -> Histories:
        world = World(client, connection, keeps_lost_bodies=keeps_lost_bodies)
        if begins_with == 1:  # the second group comes with its consumer
            world.consumers["x1"].dead = True
            world.sides["second"].admin.client.xgroup_destroy(KEYS.stream, "second")
            world.sides["second"].model.destroy()
        return Histories(world)

    run_state_machine_as_test(
        begin,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize="CI" in os.environ,
            print_blob=True,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
