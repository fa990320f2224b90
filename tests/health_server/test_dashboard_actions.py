"""Acting from the page, in a real browser on a real Redis, and who may not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("selenium")

import redis
from consumers import DEAD, GROUP, STREAM, Make
from dashboards import Page, too_faint
from helpers import Gate, eventually
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

from shared_sync import HealthServer, RedisStreamProducer, WorkerMetrics
from shared_sync.group_actions import GroupActions
from shared_sync.group_actions import actions as group_actions
from shared_sync.protocol.keys import Keys as GroupKeys

TOKEN = "f8a1-secret"
TIMES = "\N{MULTIPLICATION SIGN}"
HOSTILE = "<img src=x onerror='window.hacked=1'>"
BAD_WAV, NO_MODEL = ("ValueError", "no RIFF header in 'a17.wav'"), ("OSError", "model is gone")


@pytest.fixture
def server(redis_url: str) -> Iterator[HealthServer]:
    """What a worker has, but for its consumer, with actions."""
    with (
        GroupActions(redis_url, STREAM, GROUP) as actions,
        HealthServer(
            "stt-1",
            0,
            None,
            metrics=WorkerMetrics("stt-1"),
            host="127.0.0.1",
            token=TOKEN,
            actions=actions,
        ) as made,
    ):
        yield made


def add(client: redis.Redis, kind: tuple[str, str], number: int, **fields: Any) -> list[str]:
    """Dead letters as workers write them; returns their ids."""
    error_type, error = kind
    with client.pipeline() as pipeline:
        for n in range(number):
            metadata = {
                "id": f"1700000000000-{n}",
                "reason": "failed 3 times",
                "error_type": error_type,
                "error": error,
                "attempts": 3,
                "traceback": f'Traceback:\n  File "stt.py", line 17\n{error_type}: {error}',
                "worker": "stt-7",
            }
            own = {"client": f"c{n}", **fields}
            pipeline.xadd(DEAD, {**own, **{f"dead.{key}": of for key, of in metadata.items()}})
        return [letter_id.decode() for letter_id in pipeline.execute()]


def sign_in(page: Page, server: HealthServer, token: str = TOKEN) -> None:
    page.open(f"{server.url}/")
    page.shows("Sign in", "#sign-in")
    page.complaints()  # that it was asked for the token
    page.find("#token")[0].send_keys(token, Keys.ENTER)


def click(page: Page, text: str, css: str = "button") -> None:
    """Click the button that has this text, once it can be clicked."""

    def found() -> Any:
        return next((b for b in page.find(css) if b.text.startswith(text) and b.is_enabled()), None)

    eventually(lambda: found() is not None)
    found().click()


def answer(page: Page, label: str, *, typed: str = "") -> None:
    """Fill in the dialog, and press its button."""
    (dialog,) = page.find("dialog.ask")
    name = dialog.find_element(By.NAME, "by")
    name.clear()
    name.send_keys("Anna")
    if typed:
        assert not dialog.find_element(By.CSS_SELECTOR, "[type=submit]").is_enabled()
        dialog.find_element(By.NAME, "typed").send_keys(typed)
    click(page, label, "dialog.ask button")
    eventually(lambda: not page.find("dialog.ask"))


def test_a_cause_is_replayed_and_another_purged_by_whoever_has_the_token(
    page: Page, server: HealthServer, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    add(client, BAD_WAV, 120)
    add(client, NO_MODEL, 7)
    sign_in(page, server)
    page.shows("127 · 2 causes", "#letters")
    page.find("#letters summary")[0].click()  # the newest cause
    click(page, "Replay all 7")
    page.shows("Replay 7 dead letters?", "dialog")
    page.shows("OSError, failed 3 times", "dialog")
    page.picture("act-replay")
    add(client, NO_MODEL, 2)  # while the operator reads the question
    answer(page, "Replay 7")
    page.shows("7 of 7 dead letters were replayed.", "#letters-result")
    assert client.xlen(STREAM) == 7
    page.shows("122 · 2 causes", "#letters")
    purge = next(node for node in page.find("#letters summary") if "ValueError" in node.text)
    purge.click()
    click(page, "Purge all 120")
    page.shows("This cannot be undone.", "dialog")
    page.picture("act-purge")
    answer(page, "Purge 120", typed="120")
    page.shows("120 of 120 dead letters were purged.", "#letters-result")
    eventually(lambda: client.xlen(DEAD) == 2)
    lines = [record.message for record in caplog.records if " done" in record.message]
    assert "action replay by 'Anna' (a name that nobody has verified) from 127.0.0.1" in lines[0]
    assert "most 120" in lines[1]
    assert lines[1].endswith("120 done")
    events = [of[b"kind"] for _, of in client.xrange(GroupKeys.of(STREAM, GROUP).events)]
    assert events == [b"replayed", b"purged"]


def test_a_large_replay_goes_on_step_by_step_until_it_is_stopped(
    page: Page, server: HealthServer, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_actions, "STEP_SECONDS", 0.0)  # each step ends at its first letter
    add(client, NO_MODEL, 5)
    hold = Gate()
    replay = GroupActions.replay

    def slow_replay(actions: GroupActions, **options: Any) -> dict[str, Any]:
        if client.xlen(STREAM) == 2:
            hold()
        return replay(actions, **options)

    monkeypatch.setattr(GroupActions, "replay", slow_replay)
    sign_in(page, server)
    page.shows("5 · 1 cause", "#letters")
    page.find("#letters summary")[0].click()
    click(page, "Replay all 5")
    (dialog,) = page.find("dialog.ask")
    dialog.find_element(By.NAME, "by").send_keys("Anna", Keys.ENTER)
    assert hold.entered.wait(15)
    page.shows("2 of 5 dead letters were replayed.", "dialog")
    click(page, "Stop", "dialog button")
    hold.opened.set()
    page.shows("Stopped. 3 of 5 dead letters were replayed.", "#letters-result")
    page.shows("2 · 1 cause", "#letters")
    click(page, "Replay all 2")
    answer(page, "Replay 2")
    page.shows("2 of 2 dead letters were replayed.", "#letters-result")
    assert (client.xlen(STREAM), client.xlen(DEAD)) == (5, 0)


def test_letters_are_looked_at_selected_and_found(
    page: Page, server: HealthServer, client: redis.Redis
) -> None:
    hostile = (f"Evil{HOSTILE}", HOSTILE)
    add(client, hostile, 3, **{HOSTILE: HOSTILE, "audio": b"RIFF\xff\x00", "password": "hunter2"})
    sign_in(page, server)
    page.shows("3 · 1 cause", "#letters")
    page.find("#letters summary")[0].click()
    eventually(lambda: len(page.rows("#letters details")) == 3)
    page.find("#letters .name")[1].click()
    page.shows("bytes, SHA-256", "dialog.letter")
    page.shows('File "stt.py", line 17', "dialog.letter")
    assert HOSTILE in page.text("dialog.letter")
    assert "hunter2" not in page.text("body")
    assert page.run("return [window.hacked, document.querySelectorAll('main img').length]") == [
        None,
        0,
    ]
    page.picture("act-letter")
    page.find("dialog")[0].send_keys(Keys.ESCAPE)
    eventually(lambda: not page.find("dialog"))
    assert page.run("return document.activeElement.className") == "name"  # where it was opened
    for box in page.find("#letters input[type=checkbox]")[:2]:
        box.click()
    click(page, "Replay 2 selected")
    answer(page, "Replay 2")
    page.shows("2 of 2 dead letters were replayed.", "#letters-result")
    assert client.xlen(STREAM) == 2
    (waiting, _), *_ = client.xrange(STREAM)
    value = page.find("#search input:not([hidden])")[-1]
    value.send_keys(waiting.decode(), Keys.ENTER)
    page.shows("It waits to be read.", "#found")
    page.shows("No dead letter matches.", "#found")
    page.find("#search option[value=field]")[0].click()
    name, value = page.find("#search input")
    name.send_keys("client")
    value.clear()
    value.send_keys("c2", Keys.ENTER)
    page.shows("1 dead letter, the oldest first.", "#found")
    page.find("#found .name")[0].click()
    click(page, "Purge", "dialog.letter button")
    answer(page, "Purge 1", typed="1")
    page.shows("1 of 1 dead letters was purged.", "#letters-result")
    assert client.xlen(DEAD) == 0


PURGE = """
const [address, token, id, done] = arguments;
fetch(`${address}/actions/purge`, {
  method: 'POST',
  headers: {'Content-Type': 'application/json', 'Authorization': `Bearer ${token}`},
  body: JSON.stringify({by: 'Eve', ids: [id]}),
}).then((answer) => done(answer.status), () => done('refused by the browser'));
"""


def test_nobody_acts_without_the_token_or_from_another_site(
    page: Page, server: HealthServer, client: redis.Redis, site: int
) -> None:
    (letter_id,) = add(client, NO_MODEL, 1)

    def purge(address: str, token: str) -> Any:
        return page.driver.execute_async_script(PURGE, address, token, letter_id)

    sign_in(page, server, "wrong")
    page.shows("The server does not accept this token.", "#sign-in")
    assert not page.find("#letters")[0].is_displayed()
    assert purge(server.url, "wrong") == 401
    # Not even another site that has got hold of the token.
    page.open(f"http://www.evil.example:{site}/")
    assert purge(server.url, TOKEN) == "refused by the browser"
    assert client.xlen(DEAD) == 1
    page.open(f"{server.url}/")
    assert purge(server.url, TOKEN) == 200
    assert client.xlen(DEAD) == 0
    page.complaints()  # of what was refused


def test_the_group_is_paused_and_resumed_with_a_reason(
    page: Page, redis_url: str, client: redis.Redis, make: Make
) -> None:
    done: list[str] = []
    consumer = make(lambda message_id, _: done.append(message_id))
    with (
        GroupActions(redis_url, STREAM, GROUP) as actions,
        HealthServer(
            "stt-1", 0, host="127.0.0.1", consumer=consumer, token=TOKEN, actions=actions
        ) as server,
        RedisStreamProducer(redis_url, STREAM) as producer,
    ):
        consumer.start()
        sign_in(page, server)
        page.shows("Takes messages", "#paused")
        click(page, "Pause", "#acting button")
        (dialog,) = page.find("dialog.ask")
        dialog.find_element(By.NAME, "reason").send_keys("new model")
        page.picture("act-pause")
        answer(page, "Pause")
        page.shows("The group is paused.", "#acting-said")
        page.shows("Paused by Anna", "#paused")
        page.shows("new model", "#paused")
        eventually(lambda: consumer.get_health_data()["paused"])
        message_id = producer.publish({"n": 1})
        click(page, "Resume", "#acting button")
        assert done == []
        answer(page, "Resume")
        eventually(lambda: done == [message_id])
        page.shows("Takes messages", "#paused")


def test_it_works_on_a_phone_by_keyboard_and_in_the_dark(
    page: Page, server: HealthServer, client: redis.Redis
) -> None:
    add(client, BAD_WAV, 3, text="x" * 300)
    add(client, NO_MODEL, 60)
    sign_in(page, server)
    page.shows("63 · 2 causes", "#letters")
    page.picture("act-light")
    page.find("#letters summary")[0].send_keys(Keys.ENTER)
    eventually(lambda: len(page.rows("#letters details")) == 20)
    page.find("#letters summary")[1].send_keys(Keys.ENTER)
    page.find("#letters .name")[-1].send_keys(Keys.ENTER)
    page.shows("Traceback", "dialog.letter")
    for scheme in ("light", "dark"):
        page.prefers(scheme)
        assert too_faint(page) == []
        page.picture(f"act-letter-{scheme}")
    page.size(360, 780, phone=True)
    page.picture("act-phone-letter")
    widths = page.run(
        """return [...document.querySelectorAll('main *, dialog *')]
             .filter((n) => n.checkVisibility() && !n.closest('svg, .unseen, thead, .trace'))
             .map((n) => Math.round(n.getBoundingClientRect().right))"""
    )
    assert max(widths) <= 360
    page.find("dialog")[0].send_keys(Keys.ESCAPE)
    page.picture("act-phone")
    ActionChains(page.driver).send_keys(Keys.TAB).perform()
    assert page.run("return document.activeElement.matches(':focus-visible')")
