"""shared-sync status: what it says in each situation, on a real Redis."""

from __future__ import annotations

import argparse
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import pytest
import redis
from protocol_client import KEYS, make_connection

from shared_sync import RedisStreamConsumer
from shared_sync.cli import status_watch
from shared_sync.cli.main import main
from shared_sync.cli.output import Output
from shared_sync.connection.embedded import EmbeddedRedis
from shared_sync.group_status import GroupStatus, pause
from shared_sync.protocol.keys import Keys
from shared_sync.protocol.process_identity import ProcessIdentity

LEASE_MS = 30_000
LEASE_SECONDS = 1.0
"""Of a consumer that runs."""
OTHER = Keys.of("jobs", "wrokers")


@dataclass
class Scene:
    """A stream and group as others have left it."""

    client: redis.Redis
    url: str

    @property
    def now_ms(self) -> int:
        seconds, microseconds = self.client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    @property
    def is_old(self) -> bool:
        """Whether the server counts neither arrivals nor completions."""
        return str(self.client.info("server")["redis_version"]).startswith("6.")

    def consumer(self, name: str, *, silent_ms: int = 100, pending: int = 0) -> None:
        """A consumer with the default lease, whose last heartbeat came so long ago."""
        identity = ProcessIdentity.here(lease_ms=LEASE_MS).text()
        self.client.hset(KEYS.holders, name, identity)
        self.client.zadd(KEYS.presence, {name: self.now_ms - silent_ms + LEASE_MS})
        if pending:
            self.client.xreadgroup("workers", name, {"jobs": ">"}, count=pending)

    def publish(self, count: int, *, seconds_ago: float = 1.0) -> None:
        first = self.now_ms - round(1000 * seconds_ago)
        for n in range(count):
            self.client.xadd("jobs", {"n": n}, id=f"{first + n}-0")

    def finish(self, count: int) -> None:
        """Have the group finish so many messages whose entries another group keeps."""
        for _, entries in self.client.xreadgroup("workers", "w1", {"jobs": ">"}, count=count):
            self.client.xack("jobs", "workers", *(entry_id for entry_id, _ in entries))

    @contextmanager
    def meanwhile(self, act: Callable[[], object]) -> Iterator[None]:
        """Do something again and again while the command measures."""
        stop = threading.Event()

        def go_on() -> None:
            while not stop.wait(0.02):
                act()

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@pytest.fixture
def scene(redis_url: str, client: redis.Redis) -> Scene:
    client.xgroup_create("jobs", "workers", "0", mkstream=True)
    return Scene(client, redis_url)


def nothing_left(scene: Scene) -> None:
    """Every worker has left the group: scaled to zero."""


def at_work(scene: Scene) -> None:
    scene.publish(3)
    scene.consumer("w1", pending=1)


def nobody(scene: Scene) -> None:
    scene.publish(3)


def last_one_died(scene: Scene) -> None:
    scene.consumer("w1", silent_ms=LEASE_MS + 5000)


def last_one_is_silent(scene: Scene) -> None:
    scene.publish(2)
    scene.consumer("w1", silent_ms=7500, pending=2)


def one_of_two_is_silent(scene: Scene) -> None:
    scene.consumer("w1", silent_ms=7500)
    scene.consumer("w2")


def dead_left_messages(scene: Scene) -> None:
    scene.publish(2)
    scene.consumer("w1", silent_ms=LEASE_MS + 5000, pending=2)
    scene.consumer("w2")


def queue_of_an_hour(scene: Scene) -> None:
    scene.publish(2, seconds_ago=3600)
    scene.consumer("w1")


def other_holds_back(scene: Scene) -> None:
    scene.client.xgroup_create("jobs", OTHER.group, "0")
    scene.publish(3, seconds_ago=3600)
    scene.finish(3)
    scene.consumer("w1")


def scaled_to_zero_and_another_is_behind(scene: Scene) -> None:
    scene.client.xgroup_create("jobs", OTHER.group, "0")
    scene.publish(3)
    scene.finish(3)


def evicting(scene: Scene) -> None:
    scene.consumer("w1")
    scene.client.config_set("maxmemory-policy", "allkeys-lru")


def began_late(scene: Scene) -> None:
    scene.client.xgroup_destroy("jobs", "workers")
    scene.publish(2)
    scene.client.xgroup_create("jobs", "workers", "$")


def many_dead(scene: Scene) -> None:
    scene.consumer("w1")
    scene.publish(20)
    for _, entries in scene.client.xreadgroup("workers", "w1", {"jobs": ">"}):
        for entry_id, _ in entries:
            scene.client.xack("jobs", "workers", entry_id)
            scene.client.xdel("jobs", entry_id)
            scene.client.xadd(KEYS.dead, {"dead.reason": "rejected"})


def paused_and_scaled_to_zero(scene: Scene) -> None:
    scene.publish(2, seconds_ago=3600)
    with closing(make_connection(scene.url)) as connection:
        pause(connection, KEYS, by="alice", reason="a new model")


def paused_with_an_old_worker(scene: Scene) -> None:
    scene.consumer("w1")
    scene.consumer("old")
    with closing(make_connection(scene.url)) as connection:
        pause(connection, KEYS, by="alice", reason="a new model")
    long_ago = json.dumps({"by": "alice", "at": scene.now_ms - 60_000, "reason": "a new model"})
    scene.client.hset(KEYS.paused, mapping={"pause": long_ago, "consumer:w1": "1"})


SITUATIONS: list[tuple[Callable[[Scene], None], int, list[str], str]] = [
    (nothing_left, 0, [], "no consumers"),
    (at_work, 0, [], "2, the oldest for"),
    (nobody, 4, ["no_live_consumer"], "no consumer of group workers is alive, and 3 messages wait"),
    (last_one_died, 4, ["no_live_consumer"], "consumer w1 died without leaving the group"),
    (
        last_one_is_silent,
        4,
        ["consumer_silent"],
        "another worker takes over 2 messages",
    ),
    (one_of_two_is_silent, 3, ["consumer_silent"], "consumer w1 has sent no heartbeat for "),
    (
        dead_left_messages,
        3,
        ["pending_of_dead_consumers"],
        "2 messages belong to the dead consumer w1, which sent its last",
    ),
    (queue_of_an_hour, 3, ["waits_long"], "s, the limit is 300 s"),
    (other_holds_back, 3, ["group_holds_back"], "groups drop --stream jobs wrokers"),
    (scaled_to_zero_and_another_is_behind, 0, [], "0 messages are not finished"),
    (evicting, 3, ["evicting_policy"], "its maxmemory-policy is allkeys-lru"),
    (began_late, 3, ["began_late"], "group workers was created behind it"),
    (many_dead, 3, ["dead_share"], "20 of the 20 messages that have ended so far became dead"),
    (paused_and_scaled_to_zero, 0, [], "by alice: a new model"),
    (paused_with_an_old_worker, 3, ["not_paused"], "consumer old takes messages all the same"),
]


def status(scene: Scene, *options: str) -> int:
    where = ("--redis-url", scene.url, "--stream", "jobs", "--group", "workers")
    return main(["status", *where, "--sample", "0.2", *options])


@pytest.mark.parametrize(
    ("arrange", "exit_status", "names", "words"),
    SITUATIONS,
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_each_situation_has_its_problem_its_words_and_its_exit_status(
    scene: Scene,
    capsys: pytest.CaptureFixture[str],
    arrange: Callable[[Scene], None],
    exit_status: int,
    names: list[str],
    words: str,
) -> None:
    if arrange is many_dead and scene.is_old:
        pytest.skip("this server does not count the messages that have ended")
    try:
        arrange(scene)
        assert status(scene, "--json") == exit_status
        found = json.loads(capsys.readouterr().out)
        assert [problem["name"] for problem in found["problems"]] == names
        assert found["health"] == {0: "healthy", 3: "degraded", 4: "unhealthy"}[exit_status]
        assert status(scene) == exit_status
        text = capsys.readouterr().out
        assert words in text
        assert text.count("what to do: ") == len(names)
    finally:
        scene.client.config_set("maxmemory-policy", "noeviction")


def test_more_arrivals_than_completions_are_named_with_their_rates(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.publish(5, seconds_ago=90)
    scene.consumer("w1")
    with scene.meanwhile(lambda: scene.client.xadd("jobs", {"n": 1})):
        code = status(scene, "--json")
    found = json.loads(capsys.readouterr().out)
    if scene.is_old:
        assert found["arrivals_per_second"] is None
    else:
        assert found["arrivals_per_second"] > 5 > found["completions_per_second"] == 0
        assert found["seconds_to_empty"] is None
    assert code == 3
    assert [one["name"] for one in found["problems"]] == ["arrivals_exceed_completions"]


def test_a_stream_or_group_that_does_not_exist_is_an_error_with_the_nearest_names(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, remedy in (
        (("--stream", "jbos", "--group", "workers"), "did you mean 'jobs'?"),
        (("--stream", "jobs", "--group", "worker"), "did you mean 'workers'?"),
    ):
        assert main(["status", "--redis-url", scene.url, *words]) == 1
        assert remedy in capsys.readouterr().err


class Terminal(io.StringIO):
    """A terminal that does something when it first shows a text."""

    def __init__(self, *steps: tuple[str, Callable[[], object]]) -> None:
        super().__init__()
        self._steps = [*steps]

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        written = super().write(text)
        if self._steps and self._steps[0][0] in text:
            self._steps.pop(0)[1]()
        return written


def interrupt() -> None:
    raise KeyboardInterrupt


def test_watching_goes_on_while_redis_is_away_and_ends_with_ctrl_c(
    own_server: EmbeddedRedis,
) -> None:
    """And after the outage nobody is taken for dead before there was time to report."""

    def come_back() -> None:
        threading.Event().wait(LEASE_SECONDS)  # so all leases have ended
        own_server.start()

    terminal = Terminal(
        (": healthy", own_server.kill),
        ("Redis has not answered for", come_back),
        (": healthy", interrupt),
    )
    output = Output(argparse.Namespace(json=False), terminal)
    with (
        RedisStreamConsumer(
            own_server.url, "jobs", "workers", "w1", None, print, lease_seconds=LEASE_SECONDS
        ),
        closing(make_connection(own_server.url)) as connection,
    ):
        group = GroupStatus(KEYS, survey_seconds=0.0)
        status_watch.watch(group, connection, output, period_seconds=0.05, file=terminal)
    assert terminal.getvalue().count("\x1b[2J") >= 3, "it is drawn anew each time"
    bad = [line for line in terminal.getvalue().splitlines() if "unhealthy" in line]
    assert bad
    assert all("Redis" in line for line in bad)
