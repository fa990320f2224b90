"""Whether `shared-sync worker` loses a message through SIGTERM, a new start, and SIGKILL.

    python benchmarks/worker_command.py [--messages N] [--redis-server PATH]

The processor is a file of two lines. First one worker gets SIGTERM in the middle of 10,000
messages, and is started again. Then three processes under a supervisor get 10,000 messages, and one
of the processes gets SIGKILL in the middle; one health port must answer for all. The exit status is
1 if a result is missing or was published twice, or if the command ends with another exit status
than 0.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from shared_sync import RedisStreamProducer
from shared_sync.connection.embedded import EmbeddedRedis

PROCESSOR = """\
def upper(message_id, job):
    return {"text": job["text"].upper()}
"""
PATIENCE_SECONDS = 120.0


@contextmanager
def command(folder: Path, url: str, run: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The command, with its log in the folder; killed at the end if it still runs."""
    with (folder / "worker.log").open("a") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "shared_sync", "worker", "app:upper"),
                *("--redis-url", url, "--stream", f"jobs-{run}", "--group", "app"),
                *("--result-stream", f"results-{run}", "--host", "127.0.0.1", *options),
            ],
            cwd=folder,
            stderr=log,
            text=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(what: str, condition: Callable[[], object]) -> None:
    """Wait until the condition holds; end the program if it does not."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"did not come true: {what}")
        time.sleep(0.01)


def publish(url: str, run: str, count: int) -> None:
    with RedisStreamProducer(url, f"jobs-{run}") as producer:
        producer.publish_many({"text": f"n{number}"} for number in range(count))


def report(client: redis.Redis, run: str, count: int, statuses: list[int]) -> bool:
    """Print what has become of the messages; return whether all is well."""
    texts = Counter(fields[b"text"].decode() for _, fields in client.xrange(f"results-{run}"))
    missing = {f"N{number}" for number in range(count)} - texts.keys()
    twice = sum(texts.values()) - len(texts)
    print(f"{run}: {len(texts)} of {count} messages have a result, {twice} of them two")
    print(f"{run}: exit statuses {statuses}")
    return not missing and not twice and set(statuses) == {0}


def restart(folder: Path, url: str, client: redis.Redis, count: int) -> bool:
    """SIGTERM in the middle, and a second start."""
    publish(url, "restart", count)
    options, statuses = ("--health-port", "none", "--threads", "2"), []
    with command(folder, url, "restart", *options) as process:
        wait_for("a third is done", lambda: client.xlen("results-restart") > count // 3)
        process.send_signal(signal.SIGTERM)
        statuses.append(process.wait(PATIENCE_SECONDS))
    print(f"restart: {client.xlen('results-restart')} were done when the first worker had drained")
    with command(folder, url, "restart", *options) as process:
        wait_for("all are done", lambda: client.xlen("results-restart") >= count)
        process.send_signal(signal.SIGTERM)
        statuses.append(process.wait(PATIENCE_SECONDS))
    return report(client, "restart", count, statuses)


def get(url: str) -> Any:
    """What a page answers as JSON, or as text; None if nothing answers."""
    request = urllib.request.Request(url, headers={"Accept": "application/json"})
    with suppress(OSError, urllib.error.HTTPError), urllib.request.urlopen(request) as answer:
        text = answer.read().decode()
        is_json = answer.headers["Content-Type"].startswith("application/json")
        return json.loads(text) if is_json else text
    return None


def supervised(folder: Path, url: str, client: redis.Redis, count: int) -> bool:
    """Three processes, one of which is killed."""
    options = ("--processes", "3", "--health-port", "0", "--consumer-id", "w")
    with command(folder, url, "killed", *options) as process:
        wait_for("the health port is open", lambda: address(folder))
        page = address(folder)
        wait_for(
            "all are healthy", lambda: (get(f"{page}/health") or {}).get("status") == "healthy"
        )
        publish(url, "killed", count)
        wait_for("a third is done", lambda: client.xlen("results-killed") > count // 3)
        log = (folder / "worker.log").read_text()
        subprocess.run(
            ["kill", "-9", re.findall(r"worker w-2 is process (\d+)", log)[0]], check=True
        )
        wait_for("/health says so", lambda: "w-2: starts" in str(get(f"{page}/health")))
        print(f"killed: /health: {get(f'{page}/health')['reasons']}")
        wait_for("all are done", lambda: client.xlen("results-killed") >= count)
        wait_for("all are healthy again", lambda: get(f"{page}/health")["status"] == "healthy")
        health, metrics = get(f"{page}/health"), get(f"{page}/metrics")
        print(f"killed: {health['workers_running']} run, restarts: {metrics['worker_restarts']}")
        series = get(f"{page}/metrics?format=prometheus")
        print(*re.findall(r"^jobs_processed_total.*$", series, re.MULTILINE), sep="\n")
        process.send_signal(signal.SIGTERM)
        status = process.wait(PATIENCE_SECONDS)
    return report(client, "killed", count, [status])


def address(folder: Path) -> str:
    found = re.findall(r"dashboard at (\S+)", (folder / "worker.log").read_text())
    return found[-1] if found else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--redis-server", type=Path)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedRedis(options.redis_server) as server,
        redis.Redis.from_url(server.url, protocol=2) as client,
    ):
        folder = Path(name)
        (folder / "app.py").write_text(PROCESSOR)
        well = [run(folder, server.url, client, options.messages) for run in (restart, supervised)]
        if not all(well):
            print((folder / "worker.log").read_text())
    print(f"nothing lost: {'held' if all(well) else 'MISSED'}")
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
