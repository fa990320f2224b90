"""The dashboard for every reader: contrast, phone, keyboard, screen reader, theme."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

pytest.importorskip("selenium")

from dashboard_data import LETTERS, PARKED, TIMES, busy, letter
from dashboards import Page, Worker, too_faint
from helpers import Gate
from selenium.webdriver import ActionChains, Keys


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(
    page: Page, worker: Worker, hold: Gate, scheme: str
) -> None:
    busy(worker)
    page.prefers(scheme)
    page.look_at(worker)
    page.shows("3fa91c07", "#dead_letters")
    page.shows("p99", "#chart-grid")
    page.picture(scheme)
    page.open_values()
    assert too_faint(page) == []
    page.run("document.querySelector('#figures details').open = false")
    page.size(360, 780, phone=True)
    page.picture(f"phone-{scheme}")
    page.size(1360)
    worker.health |= {"status": "unhealthy", "reasons": ["Redis is away"], "live": False}
    worker.checks["model"] = hold
    page.asks_until("model timed out", "#checks")
    page.shows("Unhealthy", "#status")
    assert too_faint(page) == []
    page.picture(f"unhealthy-{scheme}")


def test_the_theme_can_be_chosen_and_is_kept(page: Page, worker: Worker) -> None:
    page.prefers("dark")
    page.look_at(worker)
    page.shows("Healthy", "#status")

    def ground() -> str:
        return str(page.run("return getComputedStyle(document.body).backgroundColor"))

    dark = ground()
    page.find("#theme")[0].click()
    assert page.text("#theme") == "Theme: light"
    light = ground()
    assert light != dark
    page.driver.refresh()
    page.shows("Healthy", "#status")
    assert ground() == light
    page.find("#theme")[0].click()
    assert ground() == dark


def test_a_phone_needs_no_scrolling_to_the_side(page: Page, worker: Worker) -> None:
    busy(worker)
    long = "x" * 200
    worker.instance_id = long
    worker.health |= {"reasons": [long]}
    worker.views["group"] = dict(worker.views["group"])
    worker.views["group"]["parked"] = [{**PARKED[0], "details": long, "message_id": long}]
    worker.metrics[long] = 1
    page.size(360, 780, phone=True)
    page.look_at(worker)
    page.shows("Degraded", "#status")
    page.open_values()
    page.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    page.shows(f"{TIMES} 4", "#dead_letters")
    widths = page.run(
        """return [document.documentElement.scrollWidth, innerWidth,
                   ...[...document.querySelectorAll('main *')]
                     .filter((n) => n.checkVisibility() && !n.closest('svg, .unseen, thead'))
                     .map((n) => Math.round(n.getBoundingClientRect().right))]"""
    )
    assert widths[1] == 360
    assert max(widths) <= 360


def test_the_read_out_follows_the_arrow_keys_in_every_chart(page: Page, worker: Worker) -> None:
    worker.past(lambda place: {"queue_depth": 100 + place, "cpu_percent": place}, 30)
    page.look_at(worker)
    page.shows("129", ".chart[aria-label^=Queue] .legend")
    queue = next(p for p in page.find(".plot") if "Queue" in str(p.get_attribute("aria-label")))
    page.run("arguments[0].focus({focusVisible: true})", queue)
    queue.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert page.text(".chart[aria-label^=Queue] .legend b") == "127"
    assert page.text(".chart[aria-label^=CPU] .legend b") == "27 %"
    assert "unfinished 127" in str(queue.get_attribute("aria-valuetext"))
    assert queue.get_attribute("aria-valuenow") == "27"
    queue.send_keys(Keys.HOME)
    assert page.text(".chart[aria-label^=Queue] .legend b") == "100"
    queue.send_keys(Keys.ARROW_LEFT)
    assert page.text(".chart[aria-label^=Queue] .legend b") == "100"
    queue.send_keys(Keys.ESCAPE)
    assert page.text(".chart[aria-label^=Queue] .legend b") == "129"
    ActionChains(page.driver).move_to_element(queue).perform()
    assert ":" in page.text(".chart[aria-label^=CPU] .at")


def test_everything_can_be_reached_by_the_tab_key_and_shows_it(page: Page, worker: Worker) -> None:
    busy(worker)
    page.look_at(worker)
    page.shows("3fa91c07", "#dead_letters")
    page.open_values()
    wanted = page.run(
        """window.wanted = new Set([...document.querySelectorAll(
             'a[href], button:enabled, input, select, summary, [tabindex="0"]')]
             .filter((node) => node.checkVisibility()));
           window.faint = [];
           addEventListener('focusin', (event) => {
             wanted.delete(event.target);
             const style = getComputedStyle(event.target);
             if (style.outlineStyle !== 'solid' || style.outlineWidth !== '2px')
               faint.push(event.target.outerHTML);
           });
           return wanted.size"""
    )
    assert wanted > 30
    ActionChains(page.driver).send_keys(*[Keys.TAB] * (wanted + 5)).perform()
    assert page.run("return [...wanted].map((node) => node.outerHTML)") == []
    assert page.run("return faint") == []


def test_the_page_has_names_landmarks_and_headings(page: Page, worker: Worker) -> None:
    busy(worker)
    page.look_at(worker)
    page.shows("3fa91c07", "#dead_letters")
    page.open_values()
    tree = page.command("Accessibility.getFullAXTree")["nodes"]
    nodes = [node for node in tree if not node["ignored"]]

    def role(node: dict[str, Any]) -> str:
        return str(node["role"]["value"])

    controls = {"button", "link", "textbox", "searchbox", "combobox", "slider", "table"}
    named = [node for node in nodes if role(node) in controls]
    assert len(named) > 30
    assert [node for node in named if not node.get("name", {}).get("value")] == []
    roles = {role(node) for node in nodes}
    assert roles >= {"banner", "main", "contentinfo", "navigation", "region", "status", "table"}
    assert roles >= {"columnheader", "cell", "slider"}
    levels = [
        next(p["value"]["value"] for p in node["properties"] if p["name"] == "level")
        for node in nodes
        if role(node) == "heading"
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_what_the_reader_selects_and_unfolds_stays_while_values_change(
    page: Page, worker: Worker
) -> None:
    busy(worker)
    page.look_at(worker)
    page.shows("3fa91c07", "#dead_letters")
    page.find("#dead_letters summary")[0].click()
    page.run("getSelection().selectAllChildren(document.querySelector('#parked code'))")
    worker.views["group"] = {
        **worker.views["group"],
        "parked": [{**PARKED[0], "message_id": "1-0"}, *PARKED],
        "dead_letters": [letter(0), *LETTERS],
    }
    page.asks_until(f"{TIMES} 5", "#dead_letters")
    assert page.run("return getSelection().toString()") == PARKED[0]["message_id"]
    assert len(page.rows("#dead_letters details[open]")) == 5


def test_only_changes_of_the_status_are_read_out(page: Page, worker: Worker) -> None:
    busy(worker)
    page.look_at(worker)
    page.shows("Degraded", "#status")
    page.run(
        """window.announced = [];
           const region = document.querySelector('[aria-live]');
           new MutationObserver(() => announced.push(region.textContent))
             .observe(region, {childList: true, characterData: true, subtree: true})"""
    )
    (reason,) = worker.health["reasons"]
    for seconds in (134, 136, 138):
        worker.health |= {"reasons": [reason.replace("133 s", f"{seconds} s")]}
        page.ask_now()
        page.shows(f"for {seconds} s", "#reasons")
    assert page.run("return announced") == []
    worker.health |= {"status": "unhealthy", "reasons": ["Redis is away"]}
    page.ask_now()
    disk = "disk: only 4 % of the disk are free"
    assert page.run("return announced") == [f"Status: unhealthy. Redis is away; {disk}"]
    assert len(page.find("[aria-live]")) == 1
