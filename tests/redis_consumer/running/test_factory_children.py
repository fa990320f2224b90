"""A model per child: loaded before anything is read, replaced when it is due or its child died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import child_factories
import psutil
import pytest
import redis
from consumers import STREAM, Make, dead_letters, results
from helpers import Figures, eventually, start_program

from shared_sync import Batching, RedisStreamProducer
from shared_sync.errors import LoadingFailed
from shared_sync.redis_consumer import error_handling


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the factories in the children and the test share."""
    monkeypatch.setenv(child_factories.FOLDER, str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_readers_load_at_the_same_time_each_on_the_device_that_its_child_sees(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    figures = Figures()
    consumer = make(
        None,
        processor_factory=child_factories.load_together,
        isolation="process",
        threads=2,
        devices=["cuda:2", "cuda:5"],
        result_stream="results",
        metrics=figures,
    )
    consumer.start()
    assert figures.durations["processor_load"] == 2

    def both_have_run_messages() -> bool:
        producer.publish_many({"n": n} for n in range(20))  # one reader may take all of these
        return len({seen(one)[1] for one in results(client)}) == 2

    eventually(both_have_run_messages)
    assert {seen(one)[:2] for one in results(client)} == {("cuda:0", "2"), ("cuda:0", "5")}


def seen(result: dict[str, str]) -> tuple[str, ...]:
    """What a model has seen: device, variable, process."""
    return tuple(result["result"].split())


@pytest.mark.usefixtures("folder")
def test_a_function_in_a_child_is_replaced_as_well(
    make: Make, producer: RedisStreamProducer, client: redis.Redis
) -> None:
    consumer = make(
        child_factories.run,
        isolation="process",
        max_jobs_per_processor=2,
        result_stream="results",
    )
    producer.publish_many({"n": n} for n in range(5))
    consumer.start()
    eventually(lambda: len(results(client)) == 5)
    children = [one["result"] for one in results(client)]
    assert [children.count(one) for one in dict.fromkeys(children)] == [2, 2, 1]


def test_a_child_that_has_died_is_replaced_before_anything_else_is_read(
    make: Make,
    producer: RedisStreamProducer,
    client: redis.Redis,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(error_handling, "FIRST_LOADING_PAUSE_SECONDS", 0.05)
    consumer = make(
        None,
        processor_factory=child_factories.Model,
        isolation="process",
        prefetch=10,
        result_stream="results",
    )
    producer.publish_many([{"do": "crash"}, {"n": 1}, {"n": 2}])
    (folder / "broken").touch()
    consumer.start()
    eventually(lambda: "has no processor" in str(consumer.get_health_data().get("reasons")))
    health = consumer.get_health_data()
    assert (health["live"], health["ready"]) == (True, False)
    assert any("(OSError), and is tried again" in one for one in health["reasons"])
    with make(lambda *_: None):  # what waited behind the crash is for other workers
        eventually(lambda: client.xlen(STREAM) == 0)
    assert not dead_letters(client)
    (folder / "broken").unlink()
    eventually(lambda: consumer.ready)


def test_the_parts_of_a_batch_outlast_the_child_that_their_culprit_has_killed(
    make: Make, producer: RedisStreamProducer, client: redis.Redis, folder: Path
) -> None:
    producer.publish_many([{"n": 1}, {"n": 2}, {"do": "crash"}, {"n": 3}])
    consumer = make(
        None,
        processor_factory=child_factories.BatchModel,
        isolation="process",
        batch=Batching(max_size=4, max_wait_seconds=0.2),
        max_crashes=2,
        max_jobs_per_processor=1,
        result_stream="results",
    )
    consumer.start()
    eventually(lambda: client.xlen(STREAM) == 0)
    done = [one["status"] for one in results(client)]
    assert sorted(done) == ["dead", "done", "done", "done"]
    assert len(dead_letters(client)) == 1
    runs = (folder / "runs").read_text().split()
    assert runs.count("4") == 1, "the culprit spoils one batch"


def test_a_factory_that_fails_in_a_child_ends_the_start_with_its_error(
    make: Make, client: redis.Redis, folder: Path
) -> None:
    for name in ("broken", "loaded"):
        (folder / name).touch()
    consumer = make(None, processor_factory=child_factories.Model, isolation="process")
    with pytest.raises(LoadingFailed, match=r"reader 1 .* OSError: model\.bin is damaged"):
        consumer.start()
    assert not client.exists("{jobs}:workers:holders")


LOADING = """
    import sys
    import child_factories
    from shared_sync import RedisStreamConsumer

    if __name__ == "__main__":
        consumer = RedisStreamConsumer(
            sys.argv[1], "jobs", "workers", "w", None, threads=2, isolation="process",
            processor_factory=child_factories.load_for_ever,
        )
        print(consumer.start_consuming(), consumer.state, flush=True)
"""


def test_a_signal_while_children_load_ends_the_program_and_its_children_at_once(
    redis_url: str, client: redis.Redis, folder: Path
) -> None:
    program = folder / "worker.py"
    program.write_text(textwrap.dedent(LOADING))
    environment = {**os.environ, "PYTHONPATH": str(Path(child_factories.__file__).parent)}
    with start_program(
        [sys.executable, program, redis_url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as worker:
        files = [folder / "loads-1", folder / "loads-2"]
        eventually(lambda: all(file.exists() and file.read_text() for file in files))
        worker.send_signal(signal.SIGTERM)
        output, errors = worker.communicate(timeout=15)
    assert output == "True stopped\n", errors
    assert worker.returncode == 0
    assert "Traceback" not in errors
    assert not any(psutil.pid_exists(int(file.read_text())) for file in files)
    assert not client.exists("{jobs}:workers:holders")
