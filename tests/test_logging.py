"""Records say which message they are about; text and JSON have no secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import traced_processors
from consumers import Make
from helpers import eventually

from shared_sync import ConfigurationError, RedisStreamProducer
from shared_sync.common import log_attributes
from shared_sync.logging import JsonFormatter, TextFormatter, configure


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    """What `configure()` has written, which is undone at the end."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield io.StringIO()
    root.handlers[:], level = before
    root.setLevel(level)


def parsed(output: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_records_of_an_attempt_say_which_message_they_are_about(
    make: Make, producer: RedisStreamProducer, output: io.StringIO, isolation: str
) -> None:
    configure(format="json", stream=output)
    make(traced_processors.log, isolation=isolation, threads=2).start()
    ids = producer.publish_many([{"n": str(n)} for n in range(4)])
    eventually(lambda: len([one for one in parsed(output) if "thread of it" in str(one)]) == 8)
    whole = {"stream": "jobs", "group": "workers", "consumer": "consumer-1"}
    for n, message_id in enumerate(ids):
        about = [one for one in parsed(output) if one.get("message_id") == message_id]
        own = [one for one in about if one["logger"] == "app.words"]
        assert [one["attempt"] for one in own] == [1, 1, 2, 2]
        assert all(whole.items() <= one.items() for one in own)
        assert (own[0]["message"], own[0]["language"]) == (f"words {n}", "es")
        assert own[1]["message"] == "in a thread of it"
        (failed,) = [one for one in about if one["logger"] == "test"]
        assert "next attempt in" in failed["message"]
        assert failed["attempt"] == 1
        client = [one for one in about if one["logger"] == "app.client"]
        assert [one["group"] for one in client] == ["its own"] * 2, "what others add stays"


def record(message: str, *args: object, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("app", logging.INFO, "app.py", 1, message, args, None)
    made.__dict__.update(more)
    return made


def raise_error(text: str) -> None:
    raise ValueError(text)


def test_no_secret_is_written() -> None:
    url = "redis://worker:opensesame@host/0"
    try:
        raise_error(f"cannot reach {url}")
    except ValueError as error:
        failed = record("connecting to %s", url, exc_info=(type(error), error, None))
    failed.__dict__.update(api_key="opensesame", options={"password": "opensesame"}, url=url)
    for formatter in (TextFormatter(), JsonFormatter()):
        text = formatter.format(failed)
        assert "opensesame" not in text
        assert "redis://***@host/0" in text


def test_json_has_one_line_and_whatever_was_added() -> None:
    circle: dict[str, Any] = {}
    circle["circle"] = circle
    failed = record("two\nlines", when=object, tags=("a", 1), message_id="1-0", level="high")
    failed.__dict__.update(circle=circle, share=float("nan"))
    line = JsonFormatter().format(failed)
    assert "\n" not in line
    written = json.loads(line, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert (written["extra.level"], written["share"]) == ("high", "nan")
    assert written["circle"] == "{'circle': {...}}"
    assert (written["message"], written["tags"]) == ("two\nlines", ["a", 1])
    assert written["when"] == "<class 'object'>"
    assert (written["message_id"], written["level"], written["logger"]) == ("1-0", "INFO", "app")


def test_text_names_the_message(output: io.StringIO) -> None:
    configure("debug", stream=io.StringIO())
    configure("info", stream=output)  # in place of the other
    with log_attributes.about(message_id="1-0", attempt=2, stream="jobs"):
        logging.getLogger("app").info("half done")
    logging.getLogger("app").info("idle")
    logging.getLogger("app").debug("not at this level")
    first, second = output.getvalue().splitlines()
    assert first.endswith(" INFO app [message_id=1-0 attempt=2]: half done")
    assert second.endswith(" INFO app: idle")


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"level": "LOUD"}, "level must be DEBUG, .* not 'LOUD'"),
        ({"level": True}, "level must be"),
        ({"format": "xml"}, 'format must be "text" or "json", not \'xml\''),
    ],
)
def test_what_cannot_work_is_refused(arguments: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        configure(**arguments)
