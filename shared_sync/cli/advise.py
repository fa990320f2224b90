"""shared-sync health advise: probes for Kubernetes and Compose that suit a worker."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared_sync.cli.grammar import DONE, add_command
from shared_sync.cli.options import number, whole_number
from shared_sync.cli.output import add_json, write_line

if TYPE_CHECKING:
    from shared_sync.cli.grammar import Commands

LONGEST_SECONDS = 30 * 86_400.0
SHUTDOWN_GRACE_SECONDS = 3
"""How long a consumer takes at most, beyond `drain_seconds`, to settle its messages in Redis."""

ENDPOINT_SECONDS = 5
"""For a preStop hook, or until no traffic is routed to the pod any more."""

MARGIN_SECONDS = 2

LIVE_PERIOD, LIVE_TIMEOUT = 10, 5
READY_PERIOD, READY_TIMEOUT, READY_FAILURES = 5, 3, 2
STARTUP_PERIOD, STARTUP_TIMEOUT = 5, 3
LEAST_SECONDS_TO_KILL = 60
COMMAND_STARTS_SECONDS = 2
"""Added to the time limit of a probe that is a command, because an interpreter has to start."""


@dataclass(frozen=True)
class Service:
    """The worker that the probes are for."""

    port: int
    job_seconds: float
    lease_seconds: float
    drain_seconds: float
    loading_seconds: float
    by_command: bool = False

    @property
    def seconds_to_kill(self) -> int:
        """Two leases: after one without a heartbeat, other workers take over the messages anyway.

        A process that holds the interpreter lock is healthy although it answers nothing. It may
        hold the lock for up to one lease, which is how a lease has to be chosen.
        """
        return max(LEAST_SECONDS_TO_KILL, math.ceil(2 * self.lease_seconds))

    @property
    def live_failures(self) -> int:
        return math.ceil(self.seconds_to_kill / LIVE_PERIOD)

    @property
    def startup_seconds(self) -> int:
        """Twice the time to load, and a lease: so long a dead process may occupy the same name."""
        return max(30, math.ceil(2 * self.loading_seconds + self.lease_seconds))

    @property
    def startup_failures(self) -> int:
        return math.ceil(self.startup_seconds / STARTUP_PERIOD)

    @property
    def grace_seconds(self) -> int:
        return math.ceil(
            self.drain_seconds + SHUTDOWN_GRACE_SECONDS + ENDPOINT_SECONDS + MARGIN_SECONDS
        )


def add_parser(commands: Commands) -> None:
    """Add the command, as `grammar.py` describes."""
    parser = add_command(
        commands,
        "advise",
        summary="print probes for Kubernetes and Compose that suit a worker",
        description="Prints probes for Kubernetes and a healthcheck for Compose that never kill a "
        "healthy worker and never wait long for a dead one, with the reasons.",
        run=run,
    )
    for option, default, lowest, text in (
        ("--job-seconds", 60.0, 0.0, "longest job"),
        ("--lease-seconds", 30.0, 1.0, "the consumer's lease_seconds"),
        ("--drain-seconds", 25.0, 0.0, "the consumer's drain_seconds"),
        ("--loading-seconds", 60.0, 0.0, "time to load the model"),
    ):
        parser.add_argument(
            option,
            type=number(option, lowest, LONGEST_SECONDS, unit="seconds"),
            default=default,
            metavar="SECONDS",
            help=f"{text} (default: %(default)g)",
        )
    parser.add_argument(
        "--port",
        type=whole_number("--port", 1, 65535),
        default=8080,
        help="the health server's port (default: 8080)",
    )
    parser.add_argument(
        "--exec",
        action="store_true",
        help="run a command in the container, if the kubelet cannot reach the container's network",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the advice, and return 0."""
    service = Service(
        port=options.port,
        job_seconds=options.job_seconds,
        lease_seconds=options.lease_seconds,
        drain_seconds=options.drain_seconds,
        loading_seconds=options.loading_seconds,
        by_command=options.exec,
    )
    if options.json:
        write_line(json.dumps({"kubernetes": kubernetes(service), "compose": compose(service)}))
    else:
        write_line("\n".join(advice(service)))
    return DONE


def kubernetes(service: Service) -> dict[str, Any]:
    """Return what belongs into the spec of the pod template."""
    return {
        "terminationGracePeriodSeconds": service.grace_seconds,
        "containers": [
            {
                "name": "worker",
                "startupProbe": _probe(
                    service, "startup", STARTUP_PERIOD, STARTUP_TIMEOUT, service.startup_failures
                ),
                "livenessProbe": _probe(
                    service, "live", LIVE_PERIOD, LIVE_TIMEOUT, service.live_failures
                ),
                "readinessProbe": _probe(
                    service, "ready", READY_PERIOD, READY_TIMEOUT, READY_FAILURES
                ),
            }
        ],
    }


def compose(service: Service) -> dict[str, Any]:
    """Return what belongs into a Compose file."""
    worker = {
        "stop_grace_period": f"{service.grace_seconds}s",
        "healthcheck": {
            "test": ["CMD", *_command(service, "live", LIVE_TIMEOUT)],
            "interval": f"{LIVE_PERIOD}s",
            "timeout": f"{LIVE_TIMEOUT + COMMAND_STARTS_SECONDS}s",
            "retries": service.live_failures,
            "start_period": f"{service.startup_failures * STARTUP_PERIOD}s",
        },
    }
    return {"services": {"worker": worker}}


def _probe(
    service: Service, probe: str, period: int, timeout: int, failures: int
) -> dict[str, Any]:
    how: dict[str, Any] = {"httpGet": {"path": f"/health/{probe}", "port": service.port}}
    if service.by_command:
        how = {"exec": {"command": _command(service, probe, timeout)}}
        timeout += COMMAND_STARTS_SECONDS
    numbers = {"periodSeconds": period, "timeoutSeconds": timeout, "failureThreshold": failures}
    return {**how, **numbers}


def _command(service: Service, probe: str, timeout: int) -> list[str]:
    return [
        *("shared-sync", "health", "check"),
        f"http://127.0.0.1:{service.port}",
        f"--{probe}",
        *("--timeout", str(timeout)),
    ]


def advice(service: Service) -> Iterator[str]:
    """Yield the lines of two YAML documents: the spec of a pod template, and a Compose file."""
    yield from _consumer(service)
    yield ""
    yield "# Kubernetes: into the spec of the pod template."
    yield from _yaml(kubernetes(service), _kubernetes_reasons(service))
    yield "---"
    yield "# Compose: into the service. Unhealthy means the same as for Kubernetes' liveness, since"
    yield "# Swarm replaces such a container; Compose alone only shows it."
    yield from _yaml(compose(service), {})


def _consumer(service: Service) -> Iterator[str]:
    yield (
        f"# For RedisStreamConsumer(lease_seconds={service.lease_seconds:g}, "
        f"drain_seconds={service.drain_seconds:g})"
    )
    yield f"# and jobs of up to {service.job_seconds:g} s."
    if service.job_seconds > service.drain_seconds:
        yield (
            "# A job that does not end within drain_seconds starts again elsewhere after each "
            "deploy;"
        )
        yield f"# --drain-seconds {service.job_seconds:g} lets every job end."
    if service.job_seconds > service.lease_seconds:
        yield (
            "# If a job can hold the interpreter lock for longer than lease_seconds, raise that; "
            "see"
        )
        yield "# interpreter_stall_ms in /metrics."


def _kubernetes_reasons(service: Service) -> Mapping[str, Sequence[str]]:
    """Return the comments that stand above the settings of these names."""
    return {
        "terminationGracePeriodSeconds": [
            f"drain_seconds {service.drain_seconds:g} + {SHUTDOWN_GRACE_SECONDS} to settle + "
            f"{ENDPOINT_SECONDS} for a preStop hook or endpoints + {MARGIN_SECONDS}."
        ],
        "startupProbe": [
            f"Up to {service.startup_failures * STARTUP_PERIOD} s: twice the loading of "
            f"{service.loading_seconds:g} s, and a lease: a dead process may occupy the name so "
            "long."
        ],
        "livenessProbe": [
            f"Restarts after {service.live_failures * LIVE_PERIOD} s without a good answer, two "
            "leases or more: a job may hold the",
            "interpreter lock for a while; the process is healthy although it cannot answer.",
        ],
        "readinessProbe": [
            "Fast, because a wrong answer costs little: the pod gets no traffic for a moment."
        ],
    }


def _yaml(
    settings: Mapping[str, Any], reasons: Mapping[str, Sequence[str]], indent: str = ""
) -> Iterator[str]:
    for name, value in settings.items():
        for reason in reasons.get(name, ()):
            yield f"{indent}# {reason}"
        if isinstance(value, Mapping):
            yield f"{indent}{name}:"
            yield from _yaml(value, reasons, f"{indent}  ")
        elif isinstance(value, list) and isinstance(value[0], Mapping):
            yield f"{indent}{name}:"
            for item in value:
                first, *others = _yaml(item, reasons, f"{indent}    ")
                yield f"{indent}  - {first.lstrip()}"
                yield from others
        else:
            yield f"{indent}{name}: {json.dumps(value) if isinstance(value, list) else value}"
