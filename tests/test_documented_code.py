"""Every code block of README.md and docs/ is checked: run, or parsed by what would read it."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import wraps
from importlib.util import find_spec
from pathlib import Path

import pytest
import redis
import yaml
from documented_code import (
    COMMANDS,
    MAP,
    WALKTHROUGHS,
    Block,
    blocks,
    check_signature,
    command_lines,
    own_command,
    signatures,
)
from documented_contexts import Examples, running

from shared_sync import RedisStreamConsumer
from shared_sync.cli import grammar

LANGUAGES = {
    COMMANDS,
    MAP,
    "python",
    "text",
    "mermaid",
    "promql",
    "json",
    "yaml",
    "ini",
    "dockerfile",
}
PROGRAMS = {
    ("README.md", "A first worker"),
    ("README.md", "A gateway"),
    ("README.md", "Models and GPUs"),
    ("docs/gpu.md", "GPUs"),
}
"""Whole programs, which tests/test_docs.py starts."""

INSTRUCTION = re.compile(r"(FROM|RUN|CMD|ENV|COPY|WORKDIR|USER|HEALTHCHECK|ENTRYPOINT|#)\b|$")
TOOLS = re.compile(
    "apt-get|cd|curl|docker|echo|export|git|install|kill|kubectl|mkdir|pip|promtool|pytest|python3?"
    "|redis-cli|redis-server|sh|systemctl|tox|useradd"
)


def skip_marked(block: Block) -> None:
    if block.not_run:
        assert len(block.not_run) > 10, f"{block}: say why it is not run"
        pytest.skip(f"{block}: {block.not_run}")


def test_each_block_is_in_a_language_that_is_checked() -> None:
    found = blocks()
    assert len(found) > 60
    unknown = {str(block): block.language for block in found if block.language not in LANGUAGES}
    assert not unknown, "mark text as `text`; for another language, add a check"
    for block in blocks("text"):
        for word in ("shared-sync ", "python -m", "import ", "pip install"):
            assert word not in block.text, f"{block} is no text"


# --- Python -----------------------------------------------------------------------------------


def sections() -> dict[tuple[str, str], list[Block]]:
    """The Python blocks below one heading, which share their names."""
    found: dict[tuple[str, str], list[Block]] = {}
    for block in blocks("python"):
        if (block.page, block.heading) not in PROGRAMS and block.page not in WALKTHROUGHS:
            found.setdefault((block.page, block.heading), []).append(block)
    return found


@pytest.fixture
def examples(
    redis_url: str,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Examples]:
    with ExitStack() as stack:
        made = Examples(redis_url, client, stack)
        construct = RedisStreamConsumer.__init__

        @wraps(construct)
        def remember(consumer: RedisStreamConsumer, *arguments: object, **options: object) -> None:
            made.made.append(consumer)
            construct(consumer, *arguments, **options)  # type: ignore[arg-type]

        def start_consuming(consumer: RedisStreamConsumer) -> None:
            made.run(consumer)

        monkeypatch.setattr(RedisStreamConsumer, "__init__", remember)
        monkeypatch.setattr(RedisStreamConsumer, "start_consuming", start_consuming)
        yield made


@pytest.mark.parametrize("section", sections().values(), ids=lambda found: str(found[0]))
def test_python_runs(section: list[Block], examples: Examples) -> None:
    for block in section:
        skip_marked(block)
    page, heading = section[0].page, section[0].heading
    with running(examples, page, heading) as names:
        for block in section:
            calls = signatures(block.text)
            for call in calls or ():
                check_signature(call)
            if calls:
                continue
            text = re.sub(r"redis://(localhost|redis):6379/0", examples.url, block.text)
            program = "\n" * block.line + text.replace("8081", "0")
            exec(compile(program, block.page, "exec"), names)


# --- commands ---------------------------------------------------------------------------------


def commands() -> list[Block]:
    return [block for block in blocks(COMMANDS) if block.page not in WALKTHROUGHS]


@pytest.mark.parametrize("block", commands(), ids=str)
def test_commands_are_understood(block: Block, client: redis.Redis) -> None:
    skip_marked(block)
    known_to_redis = {str(name).upper() for name in client.command()}
    if block.text.startswith("~"):  # the rights of a user
        client.acl_setuser("documented", enabled=False)
        assert client.execute_command("ACL", "SETUSER", "documented", *block.text.split())
        return
    is_check = block.text.startswith("HEALTHCHECK ")  # of a Dockerfile
    command = json.loads(block.text.partition(" CMD ")[2]) if is_check else []
    for words in [command] if is_check else command_lines(block.text):
        own = own_command(words)
        if own:
            understand(*own)
        elif words[:2] == ["ACL", "SETUSER"]:
            assert client.execute_command(*words)
            client.acl_deluser(words[2])
        elif words[0].isupper():
            assert words[0] in known_to_redis, words[0]
        else:
            is_known = words[0] == "." or TOOLS.fullmatch(Path(words[0]).name)
            assert is_known, words[0]


def understand(module: str, words: list[str]) -> None:
    """Let the grammar of the commands read the words; raises an error if it cannot."""
    if module == "shared_sync.health":
        words = ["health", *words]
    elif module != "shared_sync":
        assert find_spec(module)
        return
    grammar.parse(words)


# --- others -----------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["json", "yaml", "ini", "dockerfile"])
def test_settings_are_well_formed(language: str) -> None:
    for block in blocks(language):
        check_settings(block)


def check_settings(block: Block) -> None:
    if block.language == "json":
        json.loads(block.text)
    elif block.language == "yaml":
        assert list(yaml.safe_load_all(block.text))
    elif block.language == "ini":
        configparser.ConfigParser(interpolation=None).read_string(block.text)
    else:
        for instruction in block.text.replace("\\\n", " ").splitlines():
            assert INSTRUCTION.match(instruction), instruction


@pytest.mark.parametrize("block", blocks("mermaid"), ids=str)
def test_diagrams_have_participants_that_exist(block: Block) -> None:
    first, *lines = (line.strip() for line in block.text.splitlines())
    assert first == "sequenceDiagram"
    participants = {line.split()[1] for line in lines if line.startswith("participant ")}
    arrows = re.findall(r"^ *(\w+)-+>>(\w+): \S", block.text, re.MULTILINE)
    assert arrows
    assert {name for arrow in arrows for name in arrow} == participants


def test_prometheus_understands_the_queries(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool, of Debian's package prometheus")
    queries = [
        query
        for block in blocks("promql")
        for query in block.text.splitlines()
        if query and not query.startswith("#")
    ]
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "documented", "rules": rules}]}))
    subprocess.run([promtool, "check", "rules", str(file)], check=True, capture_output=True)
