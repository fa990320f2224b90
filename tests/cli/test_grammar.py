"""One grammar for all commands: versions, help, mistakes, exit statuses, and output."""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from helpers import free_port

from shared_sync import __version__
from shared_sync.cli.grammar import COMMANDS, Family, Parser, make_parser
from shared_sync.cli.main import main
from shared_sync.cli.output import Output


def leaves(parser: Parser) -> Iterator[Parser]:
    """The parsers of all commands that can be run."""
    groups = [action for action in parser._actions if isinstance(action.choices, dict)]
    for group in groups:
        assert isinstance(group.choices, dict)
        for below in group.choices.values():
            yield from leaves(below)
    if not groups:
        yield parser


PARSERS = list(leaves(make_parser()))
DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "command-line.md").read_text()


def test_the_version_is_that_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--version"])
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.prog)
def test_each_command_documents_its_options_and_its_exit_status(parser: Parser) -> None:
    text = " ".join(parser.format_help().split())
    assert text.startswith(f"usage: {parser.prog}")
    assert "Exit status: 0 " in text
    assert all(action.help for action in parser._actions)
    printing_no_facts = ("shared-sync demo", "shared-sync completion")
    assert "--json" in text or parser.prog in printing_no_facts


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.prog)
def test_each_command_is_in_the_documentation_with_its_options(parser: Parser) -> None:
    common, *sections = re.split(r"^## (?=shared-sync)", PAGE, flags=re.MULTILINE)
    named = {text.split("\n")[0]: text for text in sections}
    (section,) = [text for name, text in named.items() if f"{parser.prog} ".startswith(f"{name} ")]
    options = {option for action in parser._actions for option in action.option_strings}
    documented = set(re.findall(r"--[\w-]+", common + section))
    if parser.prog == "shared-sync worker":  # its options have the names of arguments
        arguments = re.findall(r"`(\w+)\b", (DOCS / "configuration.md").read_text())
        documented |= {f"--{name.replace('_', '-')}" for name in arguments}
    missing = options - {"-h", "--help", "--token"} - documented
    assert {option for option in missing if not option.startswith("--no-")} == set()


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("", "give a command; there are worker, "),
        (
            "health",
            "give a command; there are serve, check and advise; 'shared-sync health --help'",
        ),
        ("cancle --stream s 1-1", "there is no command 'cancle'; did you mean cancel?"),
        ("frobnicate", "there are worker, "),
        ("cancel --stream", "expected one argument; 'shared-sync cancel --help' lists"),
        ("cancel --strea s 1-1", "required: --stream"),
        ("cancel --stream s 1-1 --password s3cret", "unrecognized arguments: --password;"),
        ("demo --jobs many", "--jobs must be a whole number from 1 to"),
        ("health check --token s3cret", "HEALTH_TOKEN or --token-file"),
    ],
)
def test_a_mistake_is_one_line_with_the_remedy_and_no_secret_and_exit_status_2(
    words: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("shared-sync: ")
    assert "s3cret" not in line
    assert remedy in line


def test_a_redis_that_is_away_is_one_line_and_exit_status_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    assert main(["cancel", "--redis-url", url, "--stream", "jobs", "1-1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("shared-sync: ")
    assert line.endswith("; start Redis, or give its address by REDIS_URL or --redis-url")
    assert "127.0.0.1" in line


def test_a_command_ends_quietly_when_nobody_reads_its_output() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "shared_sync", "health", "advise"],
            stdout=closed,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.stderr == b""
    assert done.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="this system has no /dev/full")
def test_output_that_cannot_be_written_is_an_error_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with suppress(OSError), open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["health", "advise"]) == 1
    assert capsys.readouterr().err == (
        "shared-sync: the output cannot be written: No space left on device\n"
    )
    monkeypatch.setattr(sys, "stdout", None)  # closed, as by >&-
    assert main(["health", "advise"]) == 0


def test_text_that_the_output_cannot_encode_is_escaped() -> None:
    written = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Output(argparse.Namespace(json=False), written).show({}, "größe \x1b[2J")
    assert written.buffer.getvalue() == b"gr\\xf6\\xdfe  [2J\n"


def test_the_list_of_commands_loads_neither_redis_nor_flask() -> None:
    code = (
        "import sys; from shared_sync.cli.grammar import make_parser; make_parser(); "
        "print({'redis', 'flask', 'waitress', 'prometheus_client'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_each_command_has_a_module() -> None:
    for command in COMMANDS.values():
        for module in command.modules.values() if isinstance(command, Family) else [command]:
            assert module.startswith("shared_sync.cli.")
