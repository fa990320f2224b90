"""The code blocks of the documentation, and how those of each language are checked.

A block that cannot be checked has a comment above it that says why, and counts as skipped:

    <!-- not run: it needs a GPU -->

One that another test runs names that test, and is left to it:

    <!-- run by tests/testing/test_fixtures.py -->
"""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt

import shared_sync

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WALKTHROUGHS = ("docs/quickstart.md", "docs/tutorial.md")
"""Pages that tests/test_walkthroughs.py runs from the beginning to the end."""

NOT_RUN = re.compile(r"<!-- not run: (.+) -->\s*\Z", re.DOTALL)
RUN_BY = re.compile(r"<!-- run by (\S+) -->\s*\Z")
COMMANDS = "commands"
"""The language of an indented block, and of one marked as `sh` or `console`."""

REDIS_COMMAND = re.compile(r"[A-Z]{3,} ")

MAP = "map"
"""The language of an indented block that lists files; tests/test_docs.py checks these."""

LISTS_FILES = re.compile(r"[\w/]+\.(?:py|lua)\b|\w+/ ")


@dataclass(frozen=True)
class Block:
    """A code block of a page."""

    page: str
    heading: str
    line: int
    language: str
    text: str
    not_run: str | None
    """Why it is not checked."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """Return the blocks of all pages in these languages; of all languages if none is given."""
    return [block for block in _all_blocks() if not languages or block.language in languages]


@cache
def _all_blocks() -> list[Block]:
    return [
        block
        for page in PAGES
        for block in blocks_of(page.relative_to(ROOT).as_posix(), page.read_text())
    ]


def blocks_of(page: str, text: str) -> Iterator[Block]:
    heading, comment, run_elsewhere = "", None, False
    tokens = MarkdownIt("commonmark").parse(text)
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = tokens[number + 1].content
        if token.type in ("fence", "code_block") and not run_elsewhere:
            assert token.map is not None
            language = language_of(token.info.strip(), token.content)
            yield Block(
                page=page,
                heading=heading,
                line=token.map[0] + 1,
                language=language,
                text=typed(token.content) if language == COMMANDS else token.content,
                not_run=comment,
            )
        reason = NOT_RUN.match(token.content) if token.type == "html_block" else None
        comment = reason[1] if reason else None
        test = RUN_BY.match(token.content) if token.type == "html_block" else None
        run_elsewhere = test is not None
        if test:
            assert Path(page).name in (ROOT / test[1]).read_text(), f"{test[1]} runs no {page}"


def typed(text: str) -> str:
    """Return the commands alone, if a block also shows what they print."""
    lines = text.splitlines(keepends=True)
    commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return "".join(commands) or text


def language_of(name: str, text: str) -> str:
    if name in ("", "sh", "console"):
        return MAP if LISTS_FILES.match(text) else COMMANDS
    return name


# --- commands ---------------------------------------------------------------------------------


def command_lines(text: str) -> list[list[str]]:
    """Return the words of each command: of lines, and of what `&&`, `|` and `;` separate."""
    commands: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        if REDIS_COMMAND.match(line):
            commands.append(line.split())
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words: list[str] = []
        for word in lexer:
            if set(word) <= set("&|;"):
                commands.append(words)
                words = []
            else:
                words.append(word)
        commands.append(words)
    return [words for words in map(without_environment, commands) if words]


def without_environment(words: list[str]) -> list[str]:
    """Return the command without the variables that are set for it alone."""
    is_variable = re.compile(r"[A-Z_]+=")
    start = next((n for n, word in enumerate(words) if not is_variable.match(word)), len(words))
    return words[start:]


def own_command(words: list[str]) -> tuple[str, list[str]] | None:
    """Return the module behind a command of this library, and its arguments; None for others."""
    if Path(words[0]).name == "shared-sync":
        return "shared_sync", words[1:]
    is_module = len(words) > 2 and re.fullmatch(r"python3?", Path(words[0]).name)
    if is_module and words[1] == "-m" and words[2].startswith("shared_sync"):
        return words[2], words[3:]
    return None


# --- Python -----------------------------------------------------------------------------------


def signatures(text: str) -> list[ast.Call] | None:
    """Return the calls of a block that only shows signatures; None for one that is to be run.

    It has nothing but calls of public names with names of arguments, perhaps with `...` at the end.
    """
    statements = ast.parse(re.sub(r",\s*\.\.\.\s*\)", ")", text)).body
    calls = [
        statement.value
        for statement in statements
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    ]
    is_public = all(getattr(call.func, "id", None) in shared_sync.__all__ for call in calls)
    names_only = all(isinstance(argument, ast.Name) for call in calls for argument in call.args)
    return calls if is_public and names_only and len(calls) == len(statements) else None


def check_signature(call: ast.Call) -> None:
    """Check that each argument exists which the call names."""
    assert isinstance(call.func, ast.Name)
    parameters = inspect.signature(getattr(shared_sync, call.func.id)).parameters
    named = [argument.id for argument in call.args if isinstance(argument, ast.Name)]
    for name in [*named, *(keyword.arg for keyword in call.keywords)]:
        assert name in parameters, f"{call.func.id} has no argument {name}"
