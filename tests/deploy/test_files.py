"""The deployment files agree with the library and with each other."""

from __future__ import annotations

import configparser
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared_sync.cli import advise, grammar
from shared_sync.cli.main import main

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
WORKER = advise.Service(
    port=8080,
    job_seconds=25,
    lease_seconds=30,
    drain_seconds=25,
    loading_seconds=30,
    by_command=False,
)
"""What the workers of the service are like."""


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def compose() -> dict[str, Any]:
    service: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return service


def workers() -> list[dict[str, Any]]:
    return [
        document["spec"]["template"]["spec"]
        for name in ("stt-worker", "translation-worker")
        for document in documents(DEPLOY / f"kubernetes/{name}.yaml")
    ]


def test_the_probes_and_the_grace_periods_are_those_that_the_library_advises() -> None:
    kubernetes, for_compose = yaml.safe_load_all("\n".join(advise.advice(WORKER)))
    grace = kubernetes["terminationGracePeriodSeconds"]
    for pod in workers():
        assert pod["terminationGracePeriodSeconds"] == grace
        for probe, advised in kubernetes["containers"][0].items():
            if probe.endswith("Probe"):
                used = pod["containers"][0][probe]
                assert used["httpGet"]["path"] == advised["httpGet"]["path"]
                for key in ("periodSeconds", "timeoutSeconds", "failureThreshold"):
                    assert used[key] == advised[key], (probe, key)
    services = compose()["services"]
    for name in ("stt-worker", "translation-worker"):
        advised = for_compose["services"]["worker"]["stop_grace_period"]
        assert services[name]["stop_grace_period"] == advised


def test_no_container_runs_as_root_or_writes_outside_of_its_volumes() -> None:
    pods = [
        document["spec"]["template"]["spec"]
        for path in KUBERNETES
        for document in documents(path)
        if document["kind"] in ("Deployment", "StatefulSet")
    ]
    assert len(pods) == 6
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["enableServiceLinks"] is False
        for container in pod["containers"]:
            allowed = container["securityContext"]
            assert allowed["allowPrivilegeEscalation"] is False
            assert allowed["readOnlyRootFilesystem"] is True
    stages = (DEPLOY / "Dockerfile").read_text().split("\nFROM ")[2:]
    for stage in stages:
        assert re.findall(r"^USER (\S+)", stage, re.M)[-1] == "10001"


def test_redis_keeps_its_data_and_evicts_nothing() -> None:
    [_, stateful] = documents(DEPLOY / "kubernetes/redis.yaml")
    [container] = stateful["spec"]["template"]["spec"]["containers"]
    for command in (compose()["services"]["redis"]["command"], container["args"]):
        options = dict(zip(command[1::2], command[2::2], strict=True))
        assert options["--appendonly"] == "yes"
        assert options["--maxmemory-policy"] == "noeviction"
        assert options["--aclfile"] == "/etc/redis/users.acl"


def test_kustomize_finds_every_file(tmp_path: Path) -> None:
    kustomization = yaml.safe_load((DEPLOY / "kubernetes/kustomization.yaml").read_text())
    assert {*kustomization["resources"], "kustomization.yaml"} == {path.name for path in KUBERNETES}
    made = subprocess.run(
        ["sh", DEPLOY / "make_secrets.sh", tmp_path / "secrets"], capture_output=True, check=True
    )
    assert b"redis://" not in made.stdout + made.stderr
    files = {
        name
        for secret in kustomization["secretGenerator"]
        for name in [*secret.get("files", ()), *secret.get("envs", ())]
    }
    assert files == {f"secrets/{path.name}" for path in (tmp_path / "secrets").iterdir()}


def test_the_unit_lets_the_worker_drain_and_does_not_repeat_what_cannot_work() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / "systemd/shared-sync-worker@.service")
    service = unit["Service"]
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) >= WORKER.grace_seconds
    assert service["Restart"] == "always"
    assert service["RestartPreventExitStatus"] == "2"


def commands() -> Iterator[list[str]]:
    """The commands of ours in the files: the words behind `shared-sync`, or behind `python -m`."""
    for path in KUBERNETES:
        for document in documents(path):
            if document["kind"] == "Deployment":
                [container] = document["spec"]["template"]["spec"]["containers"]
                yield container["args"]
    yield from (
        service["command"] for service in compose()["services"].values() if "build" in service
    )
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    for text in re.findall(r"(?:^#   |HEALTHCHECK .*|^)CMD (\[.*\])$", dockerfile, re.M):
        words = json.loads(text)
        yield words[1:] if words[0] == "shared-sync" else words


def test_every_command_in_the_files_is_one_that_there_is() -> None:
    seen = 0
    for words in commands():
        if len(words) == 1 and "." in words[0]:
            assert importlib.util.find_spec(words[0]), words
        elif words != ["--help"]:
            grammar.parse(words)
        seen += 1
    assert seen > 10


def test_the_worker_of_the_unit_has_settings_that_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stt.py").write_text("def transcribe(message_id, job): ...\n")
    monkeypatch.chdir(tmp_path)
    settings = str(DEPLOY / "systemd/worker.ini")
    assert main(["worker", "--config", settings, "--print-config"]) == 0
    assert "processor              = stt:transcribe" in capsys.readouterr().out


def test_kubernetes_accepts_the_manifests() -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="runs in `tox -e deploy`")
    kinds = set()
    for path in KUBERNETES:
        for document in documents(path):
            if "keda" in document["apiVersion"] or "kustomize" in document["apiVersion"]:
                continue
            validator.validate(document, "1.35", strict=True)
            kinds.add(document["kind"])
    assert {"Deployment", "StatefulSet", "PodDisruptionBudget", "NetworkPolicy"} <= kinds


def test_compose_accepts_its_file() -> None:
    pytest.importorskip("check_jsonschema", reason="runs in `tox -e deploy`")
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "check_jsonschema",
            "--builtin-schema",
            "vendor.compose-spec",
            DEPLOY / "compose.yaml",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
