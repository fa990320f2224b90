"""Dead letters from the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from consumers import DEAD, GROUP, STREAM, bury

from shared_sync import DeadLetters
from shared_sync.__main__ import main


@pytest.fixture
def where(redis_url: str) -> tuple[str, ...]:
    """What every command begins with."""
    return ("dead-letters", "--redis-url", redis_url, "--stream", STREAM, "--group", GROUP)


@pytest.fixture
def command(where: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that goes well; what it prints."""

    def run(*arguments: str) -> str:
        assert main([*where, *arguments]) == 0
        return capsys.readouterr().out

    return run


def test_the_command_lists_shows_replays_and_purges(
    redis_url: str,
    command: Callable[..., str],
    client: redis.Redis,
) -> None:
    bury(redis_url, {"name": "a", "audio": b"\xff" * 1000}, {"name": "b"}, {"name": "c"})
    with DeadLetters(redis_url, STREAM, GROUP) as letters:
        first, second, _ = letters
    listed = command("list").splitlines()
    assert len(listed) == 3
    assert listed[0].startswith(first.id)
    assert "rejected: no use" in listed[0]
    shown = command("show", first.id)
    assert "name = a" in shown
    assert "(1000 bytes)" in shown
    assert f"{first.id} replayed as" in command("replay", first.id)
    assert client.xlen(STREAM) == 1
    assert command("purge", second.id) == "1 removed\n"
    command("replay", "--all")
    assert command("list") == ""
    assert client.xlen(DEAD) == 0
    assert client.xlen(STREAM) == 2


def test_the_list_has_one_line_for_each_whatever_the_text_of_its_error(
    command: Callable[..., str], client: redis.Redis
) -> None:
    text = "too loud\r\nor not\x1b[2J größer"
    client.xadd(DEAD, {"n": 1, "dead.id": "1-1", "dead.reason": text, "dead.time": 1e300})
    (line,) = command("list").splitlines()
    assert line.endswith("too loud  or not [2J größer")
    letter_id = line.split()[0]
    client.xadd(DEAD, {"n": "a\x1b[2Jb", "dead.id": "1-2", "dead.traceback": "one\n  two\x07"})
    shown = command("show", letter_id, client.xrevrange(DEAD)[0][0].decode())
    assert "n = a [2Jb\n" in shown
    assert "one\n  two \n" in shown
    assert "\x1b" not in shown


def test_people_are_told_that_there_is_none_and_programs_get_no_line(
    where: tuple[str, ...], client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    client.xgroup_create(STREAM, GROUP, mkstream=True)
    said = {
        ("list",): "no dead letters\n",
        ("list", "--error", "OSError"): "no dead letter matches\n",
        ("replay", "--all"): "no dead letters\n",
        ("list", "--json"): "",
    }
    for arguments, expected in said.items():
        assert main([*where, *arguments]) == 0
        assert capsys.readouterr() == ("", expected)


def test_one_letter_that_cannot_be_replayed_does_not_keep_back_the_others(
    where: tuple[str, ...], client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    for fields in ({"n": 1}, {}, {"n": 3}):
        client.xadd(DEAD, {**fields, "dead.id": "1-1", "dead.reason": "rejected: no use"})
    assert main([*where, "replay", "--all"]) == 1
    out, err = capsys.readouterr()
    assert out.count("replayed as") == client.xlen(STREAM) == 2
    assert " is not replayed: " in err
    assert err.endswith("this dead letter has no fields of a message\n")
    assert client.xlen(DEAD) == 1
    client.delete(STREAM)
    client.set(STREAM, "something else")
    client.xadd(DEAD, {"n": 4, "dead.id": "1-1"})
    assert main([*where, "replay", "--all"]) == 1
    assert "WRONGTYPE" in capsys.readouterr().err
    assert client.xlen(DEAD) == 2


def test_options_say_which_are_listed_replayed_and_purged(
    redis_url: str, command: Callable[..., str], client: redis.Redis
) -> None:
    first, *_ = bury(redis_url, *({"client": n % 3, "n": n, "audio": b"x" * n} for n in range(9)))
    bury(redis_url, {"n": 9}, error=ValueError("too loud"))
    assert len(command("list", "--reason", "rejected").splitlines()) == 9
    (line,) = command("list", "--error", "too loud").splitlines()
    assert re.search(r"  1\.\d kB  failed 2 times", line), line
    assert command("list", "--older-than", "1h") == ""
    assert len(command("list", "--newer-than", "1.5m").splitlines()) == 10
    assert command("replay", "--message", first).count("replayed as") == 1
    assert command("replay", "--field", "client=1").count("replayed as") == 3
    assert {fields[b"n"] for _, fields in client.xrange(STREAM)} == {b"0", b"1", b"4", b"7"}
    assert command("purge", "--field", "client=2", "--field", "n=5") == "1 removed\n"
    assert client.xlen(DEAD) == 5


@pytest.mark.parametrize(
    "arguments",
    [
        ("purge",),
        ("replay", "1-1", "--reason", "rejected"),
        ("list", "--older-than", "soon"),
        ("list", "--field", "client"),
    ],
)
def test_replay_and_purge_without_a_selection_are_refused(
    where: tuple[str, ...], arguments: tuple[str, ...]
) -> None:
    assert main([*where, *arguments]) == 2


def test_letters_are_exported_to_a_file_and_imported_again(
    redis_url: str,
    command: Callable[..., str],
    client: redis.Redis,
    tmp_path: Path,
    where: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    bury(redis_url, {"n": 1}, {"n": 2})
    file = str(tmp_path / "letters.jsonl")
    listed = command("list")
    assert command("export", file) == "2 exported\n"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        assert command("export", str(pipe)) == "2 exported\n"
        assert reader.read() == Path(file).read_bytes()
    assert pipe.is_fifo()  # a pipe, or a device such as /dev/stdout, is not replaced by a file
    assert command("export", "-", "--field", "n=2").count('"fields": [["n", "2"]]') == 1
    client.delete(DEAD)
    assert command("import", file) == "2 imported, 0 were there already\n"
    assert command("import", file) == "0 imported, 2 were there already\n"
    assert command("list") == listed
    command("purge", "--all")
    assert command("import", file) == "2 imported, 0 were there already\n"
    for action in (("import", f"{file}.not"), ("export", f"{file}/x")):
        assert main([*where, *action]) == 1
        assert re.search("cannot be (read|written)", capsys.readouterr().err)


def test_the_command_reports_a_mistake_in_one_line(where: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shared_sync", *where, "show", "1-1"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("shared-sync: there is no dead letter '1-1'")
    assert len(done.stderr.splitlines()) == 1
    assert main([*where, "replay"]) == 2


def test_a_mistyped_name_is_an_error_that_gives_the_nearest_names(
    redis_url: str, client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    bury(redis_url, {"n": 1})
    client.xadd("results", {"n": 1})

    def error_of(stream: str, group: str, *action: str) -> str:
        names = ("--stream", stream, "--group", group)
        assert main(["dead-letters", "--redis-url", redis_url, *names, *action]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        return err

    for action in (["list"], ["purge", "1-1"], ["purge", "--all"], ["replay", "--all"]):
        assert error_of("job", GROUP, *action) == (
            "shared-sync: there is no stream 'job' on this server; did you mean 'jobs'?\n"
        )
    assert error_of("audio", GROUP, "list").endswith("there are 'jobs', 'results'\n")
    assert error_of(STREAM, "worker", "list") == (
        "shared-sync: there is no group 'worker' of stream 'jobs'; did you mean 'workers'?\n"
    )
    client.flushall()
    assert error_of("job", GROUP, "list").endswith("check the address\n")


def test_a_group_without_dead_letters_and_dead_letters_without_their_group_are_no_error(
    redis_url: str, client: redis.Redis, command: Callable[..., str]
) -> None:
    bury(redis_url, {"n": 1})
    client.delete(STREAM)
    assert "rejected: no use" in command("list")
    client.delete(DEAD)
    client.xgroup_create(STREAM, GROUP, mkstream=True)
    assert command("list") == ""


def test_without_the_rights_to_ask_for_names_there_is_no_error(
    redis_url: str, client: redis.Redis, where: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    rights = ("+xlen", "+xrange", "+evalsha", "+script|load")
    client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", *rights)
    url = redis_url.replace("://", "://reader:pw@")
    command = ["dead-letters", "--redis-url", url, *where[3:], "list"]
    assert main(command) == 0
    client.execute_command("ACL", "SETUSER", "reader", "+xinfo|groups")
    assert main(command) == 1
    assert "there is no stream 'jobs'" in capsys.readouterr().err


def test_the_place_may_stand_behind_the_action_and_json_has_every_detail(
    redis_url: str, command: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    (message_id,) = bury(redis_url, {"n": 1, "audio": b"\xff\xfe"})
    place = ("--stream", STREAM, "--group", GROUP, "--redis-url", redis_url)
    assert main(["dead-letters", "list", *place, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert (listed["message_id"], listed["reason"]) == (message_id, "rejected: no use")
    shown = json.loads(command("show", listed["id"], "--json"))
    assert shown == {**listed, "fields": {"n": "1", "audio": {"base64": "//4="}}}
    assert main(["dead-letters", "replay", "--json", *place[:2], "--all"]) == 2
    assert capsys.readouterr().err.startswith("shared-sync: the following arguments are required: ")
    replayed = json.loads(command("replay", "--all", "--json"))
    assert list(replayed) == ["id", "message_id"]
    assert json.loads(command("purge", "--all", "--json")) == {"removed": 0}
    assert main(["dead-letters", "purge", *place, listed["id"]]) == 1
    assert capsys.readouterr().out == "0 removed\n"
