"""The alert rules do what their unit tests say, and each has one in which it fires."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

PROMETHEUS = Path(__file__).parents[2] / "deploy/prometheus"


def alerts() -> list[str]:
    rules = yaml.safe_load((PROMETHEUS / "rules.yaml").read_text())
    return [rule["alert"] for group in rules["groups"] for rule in group["rules"]]


def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        if os.environ.get("CI"):
            pytest.fail("no promtool here, and CI must not skip what needs it")
        pytest.skip("no promtool on PATH; it is part of Prometheus")
    run = subprocess.run(
        [promtool, "test", "rules", "rules_test.yaml"],
        cwd=PROMETHEUS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_each_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = [
        case
        for test in yaml.safe_load((PROMETHEUS / "rules_test.yaml").read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    fires = {case["alertname"] for case in cases if case["exp_alerts"]}
    rests = {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert fires == rests == set(alerts())
