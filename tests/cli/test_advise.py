"""shared-sync health advise: what it prints is YAML, and never kills a healthy worker."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
import yaml

from shared_sync.cli.advise import Service, advice
from shared_sync.cli.check import read_address
from shared_sync.cli.grammar import make_parser
from shared_sync.health import main

PROBES = {"startupProbe": "startup", "livenessProbe": "live", "readinessProbe": "ready"}
SERVICES = [
    Service(8080, job, lease, drain, loading, by_command)
    for job, lease, drain, loading, by_command in product(
        (0.5, 60, 7200), (1, 30, 600), (0, 25.5, 3600), (0, 60, 900), (False, True)
    )
]


def read(service: Service) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The pod's spec, its container, and the service of the Compose file."""
    pod, compose = yaml.safe_load_all("\n".join(advice(service)))
    (container,) = pod["containers"]
    (worker,) = compose["services"].values()
    return pod, container, worker


def arguments_of(command: list[str]) -> list[str]:
    """What `check` is given; raises if it would not understand it."""
    assert command[:3] == ["shared-sync", "health", "check"]
    options = make_parser(command[1:]).parse_args(command[1:])
    assert read_address(options.url, options.probe).path == f"/health/{options.probe}"
    return command[3:]


def test_it_is_printed_as_two_documents_of_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", "--port", "9000", "--loading-seconds", "10"]) == 0
    pod, compose = yaml.safe_load_all(capsys.readouterr().out)
    (container,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] == 35
    assert container["livenessProbe"] == {
        "httpGet": {"path": "/health/live", "port": 9000},
        "periodSeconds": 10,
        "timeoutSeconds": 5,
        "failureThreshold": 6,
    }
    assert compose["services"]["worker"]["stop_grace_period"] == "35s"
    assert main(["advise", "--port", "9000", "--loading-seconds", "10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"kubernetes": pod, "compose": compose}


@pytest.mark.parametrize("service", SERVICES, ids=str)
def test_every_advice_is_sound(service: Service) -> None:
    pod, container, worker = read(service)
    assert set(container) == {"name", *PROBES}
    for name, probe in PROBES.items():
        block = container[name]
        numbers = {key: block[key] for key in block if key not in ("exec", "httpGet")}
        assert set(numbers) == {"periodSeconds", "timeoutSeconds", "failureThreshold"}
        assert all(isinstance(number, int) and number >= 1 for number in numbers.values())
        if service.by_command:
            arguments = arguments_of(block["exec"]["command"])
            assert f"--{probe}" in arguments
            assert float(arguments[-1]) < block["timeoutSeconds"]
        else:
            assert block["httpGet"] == {"path": f"/health/{probe}", "port": 8080}

    live, ready, startup = (
        container[name] for name in ("livenessProbe", "readinessProbe", "startupProbe")
    )
    # As many probes in a row as can fail while the interpreter lock is held for a whole lease.
    silent = service.lease_seconds // live["periodSeconds"] + 1
    assert live["failureThreshold"] > silent
    assert live["failureThreshold"] * live["periodSeconds"] >= 2 * service.lease_seconds
    assert ready["failureThreshold"] * ready["periodSeconds"] <= 10
    loading = startup["failureThreshold"] * startup["periodSeconds"]
    assert loading >= 2 * service.loading_seconds + service.lease_seconds
    assert pod["terminationGracePeriodSeconds"] > service.drain_seconds + 3 + 5

    assert worker["stop_grace_period"] == f"{pod['terminationGracePeriodSeconds']}s"
    check = worker["healthcheck"]
    assert check["test"][0] == "CMD"
    assert "--live" in arguments_of(check["test"][1:])
    assert int(check["timeout"][:-1]) > float(check["test"][-1])
    assert check["retries"] == live["failureThreshold"]
    assert check["start_period"] == f"{loading}s"


def test_each_block_says_why() -> None:
    lines = list(advice(Service(8080, 60, 30, 25, 60)))
    for name in PROBES:
        place = lines.index(f"    {name}:")
        assert lines[place - 1].lstrip().startswith("#")
    assert max(map(len, lines)) <= 120


def test_jobs_that_are_cut_short_or_look_dead_are_mentioned() -> None:
    def remarks(job_seconds: float) -> str:
        return "\n".join(advice(Service(8080, job_seconds, 30, 25, 60)))

    assert "starts again elsewhere" not in remarks(20)
    assert "starts again elsewhere" in remarks(28)
    assert "--drain-seconds 28 lets every job end" in remarks(28)
    assert "raise that" not in remarks(28)
    assert "raise that" in remarks(300)


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["--job-seconds", "-1"], "from 0 to"),
        (["--drain-seconds", "nan"], "from 0 to"),
        (["--loading-seconds", "inf"], "from 0 to"),
        (["--lease-seconds", "0.5"], "from 1 to"),
        (["--lease-seconds", "long"], "not 'long'"),
        (["--port", "0"], "1 to 65535"),
        (["--port", "70000"], "1 to 65535"),
        (["--colour"], "--help"),
        (["more"], "--help"),
    ],
)
def test_impossible_numbers_are_one_line_with_the_remedy(
    arguments: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert remedy in line
