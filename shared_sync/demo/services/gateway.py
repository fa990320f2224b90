"""The gateway: takes speech from browsers over HTTP, and shows its text and translation.

    REDIS_URL=redis://localhost:6379/0 PORT=8080 python -m shared_sync.demo.services.gateway

The page is at /; http_api.py has the other paths. The page asks again and again, and each request
waits here for up to 20 s until there is news (long polling). Server-sent events would keep a thread
busy for every open page, and the HTTP server has a fixed number of threads. Here `MOST_WAITING` of
them may wait, and further requests are answered at once, so uploads always find a free thread.

Results come back to the gateway that has published the job: with several gateways, a client must
stay with one ("sticky sessions"). On SIGTERM and Ctrl-C the gateway ends; jobs go on without it.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from typing import Any

from waitress.server import create_server

from shared_sync import checks
from shared_sync.demo.services.client_jobs import ClientJob
from shared_sync.demo.services.http_api import make_app
from shared_sync.demo.services.streams import AUDIO
from shared_sync.errors import SharedSyncError
from shared_sync.health_server import HealthServer
from shared_sync.logging import configure
from shared_sync.metrics import WorkerMetrics
from shared_sync.redis_producer import RedisStreamProducer

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
INSTANCE_ID = os.environ.get("INSTANCE_ID", socket.gethostname())
LOG_LEVEL = os.environ.get("LOG_LEVEL", "INFO")
LOG_FORMAT = os.environ.get("LOG_FORMAT", "text")  # json: a line of JSON for each record
HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", "8080"))
HEALTH_HOST = os.environ.get("HEALTH_HOST")  # None: all addresses, because probes come from outside
HEALTH_PORT = os.environ.get("HEALTH_PORT", "8083")
MAX_QUEUE_DEPTH = int(os.environ.get("MAX_QUEUE_DEPTH", "1000"))
MAX_UPLOAD = int(float(os.environ.get("MAX_UPLOAD_MB", "10")) * 1_000_000)  # in bytes
EXPIRES_SECONDS = 300.0  # a job that was not started by then is not started any more
KEEP_SECONDS = 900.0  # how long the gateway knows a job
HTTP_THREADS, MOST_WAITING = 32, 24
MOST_CONNECTIONS, QUIET_SECONDS = 500, 15  # a client that sends nothing for so long must go


class Gateway:
    """The jobs of this process. Any thread may call any method."""

    def __init__(self, producer: RedisStreamProducer, metrics: WorkerMetrics) -> None:
        self.producer = producer
        self.metrics = metrics
        self.places = threading.Semaphore(MOST_WAITING)
        self.lock = threading.Lock()
        self.jobs: dict[str, ClientJob] = {}  # the oldest first

    def submit(self, client: str, wav: bytes) -> str:
        """Publish a job, and return the name by which its client asks for it.

        The name cannot be guessed, so nobody else can read the result. Raises `QueueFull` and
        `RedisUnavailable`.
        """
        handle = self.producer.submit(
            {"client_id": client, "audio": wav}, expires_seconds=EXPIRES_SECONDS
        )
        name = secrets.token_urlsafe(16)
        with self.lock:
            if all(job.client != client for job in self.jobs.values()):
                self.metrics.increment_counter("total_clients_served")
            self.jobs[name] = ClientJob(client, handle)
            for old in [key for key, job in self.jobs.items() if job.age_seconds > KEEP_SECONDS]:
                del self.jobs[old]
        self.metrics.increment_counter("redis_operations")
        self.metrics.increment_counter("audio_bytes_processed", len(wav))
        self.count_clients()
        return name

    def look(self, name: str, after: str | None, seconds: float) -> dict[str, Any] | None:
        """Return what is known of a job, None if there is no such job.

        With `after`, waits up to so many seconds until there is more than that version had.
        """
        job = self.jobs.get(name)
        if job is None:
            return None
        if after is not None and self.places.acquire(blocking=False):
            try:
                update = job.handle.wait_for_update(after=after, timeout=seconds)
            finally:
                self.places.release()
            if update is not None and update.is_final:
                self.metrics.record_duration("processing_latency", job.age_seconds)
                self.count_clients()
        return {"job": name, **job.describe()}

    def cancel(self, name: str) -> bool:
        """Cancel a job, wherever it is. Returns whether there is such a job."""
        job = self.jobs.get(name)
        if job is None:
            return False
        job.handle.cancel()
        self.metrics.increment_counter("redis_operations")
        return True

    def count_clients(self) -> None:
        with self.lock:
            clients = {job.client for job in self.jobs.values() if not job.handle.done}
        self.metrics.set_gauge("clients_connected", len(clients))


def main() -> int:
    configure(LOG_LEVEL, "json" if LOG_FORMAT == "json" else "text")
    logger = logging.getLogger("gateway")
    metrics = WorkerMetrics(INSTANCE_ID, service="gateway")
    producer = RedisStreamProducer(
        REDIS_URL, AUDIO, max_queue_depth=MAX_QUEUE_DEPTH, metrics=metrics, logger=logger
    )
    health = HealthServer(INSTANCE_ID, HEALTH_PORT, logger, metrics=metrics, host=HEALTH_HOST)
    health.add_check("redis", checks.redis(REDIS_URL))
    app = make_app(Gateway(producer, metrics), metrics, MAX_UPLOAD)
    server = create_server(
        app,
        host=HOST,
        port=PORT,
        threads=HTTP_THREADS,
        max_request_body_size=2 * MAX_UPLOAD,
        connection_limit=MOST_CONNECTIONS,
        channel_timeout=QUIET_SECONDS,
        cleanup_interval=5,
        asyncore_use_poll=True,  # select() ends at 1024 open files
    )

    def stop(*_: object) -> None:
        health.drain()
        producer.close()  # ends all waits, so that the HTTP server need not wait for them
        raise SystemExit

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with health, producer:
        logger.info("the page is at http://%s:%s/", HOST, PORT)
        server.run()  # until SIGTERM or Ctrl-C
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SharedSyncError as error:  # such as a port that is taken: the text has the remedy
        sys.exit(f"gateway: {error}")
    except OSError as error:
        sys.exit(f"gateway: HOST={HOST}, PORT={PORT}: {error.strerror}")
