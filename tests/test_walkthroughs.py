"""The quick start and the tutorial work: their commands run one after the other, as they stand.

Only the installation is left out, because this suite runs in its result, and ports are replaced by
free ones. What the pages say that a command prints must be what it prints.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from documented_code import COMMANDS, ROOT, WALKTHROUGHS, Block, blocks_of
from helpers import ENVIRONMENT, free_port, start_program

INSTALLATION = re.compile(
    r"^(python3 -m venv|\. \.venv/bin/activate|pip install|mkdir tutorial|cd tutorial).*\n", re.M
)
FILE_NAME = re.compile(r"# (\w+\.py)\n")
PRINTED = re.compile(r"prints [^`\n]*`([^`]+)`")
STARTS_REDIS = re.compile(r"^shared-sync redis\b(.*)$", re.M)


@pytest.mark.parametrize("page", WALKTHROUGHS)
def test_each_command_works_as_it_stands(page: str, tmp_path: Path) -> None:
    text = (ROOT / page).read_text()
    ports = {name: str(free_port()) for name in ("6379", "8080", "8081", "8082")}
    script = "".join(map(shell, blocks_of(page, text)))
    script = re.sub(r"\b(6379|808[012])\b", lambda found: ports[found[1]], script)
    environment = ENVIRONMENT | {
        "PATH": f"{installed(tmp_path / 'bin')}:{os.environ['PATH']}",
        "REDIS_URL": f"redis://localhost:{ports['6379']}/0",
        "HEALTH_PORT": ports["8080"],
    }
    folder = tmp_path / "tutorial"
    folder.mkdir()
    process = start_program(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=120)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 0, output
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(ports["6379"]))) != 0, (
            "the server has outlived it"
        )
    printed = PRINTED.findall(text)
    assert printed
    rest = output
    for line in printed:
        assert line in rest, f"{line!r} is not in\n{rest}"
        _, _, rest = rest.partition(line)


def shell(block: Block) -> str:
    """Return what a reader does with a block, for a shell."""
    if block.language == "python":
        name = FILE_NAME.match(block.text)
        command = f"cat > {name[1]}" if name else "python -"
        return f"{command} <<'END'\n{block.text}END\n"
    if block.language != COMMANDS:
        return ""
    awaited = (
        r"shared-sync redis --port 6379\1"
        "\nuntil (echo > /dev/tcp/127.0.0.1/6379) 2> /dev/null; do sleep 0.05; done"
    )
    return STARTS_REDIS.sub(awaited, INSTALLATION.sub("", block.text))


def installed(folder: Path) -> Path:
    """Return a folder with the commands that the pages have installed."""
    folder.mkdir()
    commands = {"python": "", "shared-sync": "-m shared_sync"}
    for name, module in commands.items():
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
    for name in commands:
        (folder / name).chmod(0o755)
    return folder
