"""What a real browser lets the pages of other sites read of a health server on its own machine."""

from __future__ import annotations

import pytest

pytest.importorskip("selenium")

from dashboards import Page, Worker

READ = """
const [address, options, done] = arguments;
fetch(address, options).then(
  (answer) => answer.text().then((text) => done([answer.status, text])),
  () => done(null),
);
"""
OPEN_TO_ALL = ("health", "health/live", "metrics", "metrics/prometheus")
PRIVATE = ("api/state", "api/history", "dashboard/app.js", "")


def read(page: Page, address: str, **options: object) -> tuple[int, str] | None:
    """What a script of the page gets; None if the browser keeps it away."""
    got = page.driver.execute_async_script(READ, address, options)
    return None if got is None else (got[0], got[1])


def test_a_page_of_another_site_reads_health_and_metrics_and_nothing_else(
    page: Page, worker: Worker, site: int
) -> None:
    worker.health["model"] = "large"
    worker.start()
    page.open(f"http://www.evil.example:{site}/")

    for path in OPEN_TO_ALL:
        answer = read(page, worker.url + path)
        assert answer is not None
        assert answer[0] in (200, 503)
    for path in PRIVATE:
        assert read(page, worker.url + path) is None
    page.complaints()


def test_a_page_of_a_named_origin_reads_the_dashboards_data_with_the_token(
    page: Page, worker: Worker, site: int
) -> None:
    origin = f"http://ops.evil.example:{site}"
    worker.options = {"cors": ["*", origin], "token": "let-me-in"}
    worker.start()
    page.open(origin)

    answer = read(page, f"{worker.url}api/state", headers={"Authorization": "Bearer let-me-in"})
    assert answer is not None
    assert answer[0] == 200
    assert '"views"' in answer[1]
    page.open(f"http://www.evil.example:{site}/")
    sent = {"Authorization": "Bearer let-me-in"}
    assert read(page, f"{worker.url}api/state", headers=sent) is None
    page.complaints()


def test_a_site_that_lets_its_name_lead_to_the_server_reads_no_data_of_the_dashboard(
    page: Page, worker: Worker
) -> None:
    worker.start()
    foreign = worker.url.replace("127.0.0.1", "www.evil.example")

    for path in PRIVATE:
        page.open(foreign + path)
        assert "allowed_hosts" in page.text()
        assert '"views"' not in page.text()
    page.complaints()
