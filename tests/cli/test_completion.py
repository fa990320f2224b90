"""shared-sync completion, as bash uses it, and without its package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shared_sync.cli.main import main

COMPLETE = """
source {script}
COMP_WORDS=(shared-sync {words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
function=$(complete -p shared-sync | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" shared-sync "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD - 1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_options_and_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    (tmp_path / "letters.jsonl").touch()

    def completions(words: str) -> list[str]:
        program = COMPLETE.format(script=script, words=words)
        done = subprocess.run(
            ["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        return done.stdout.split()

    assert completions("dead") == ["dead-letters"]
    assert completions("health ch") == ["check"]
    assert completions("publish --deduplicate-f") == ["--deduplicate-field"]
    assert completions("dead-letters import let") == ["letters.jsonl"]


def test_without_its_package_the_command_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert "pip install 'shared_sync[completion]'" in capsys.readouterr().err
