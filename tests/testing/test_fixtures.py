"""The examples of docs/testing.md pass as the tests of a program, with a real Redis."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = "pytester"

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
WITHOUT_SERVER = """
def test_it(private_redis_url):
    assert private_redis_url
"""


def test_what_the_page_shows_works(pytester: pytest.Pytester) -> None:
    payments, once, conftest, worker, again = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    pytester.makeconftest(conftest)
    pytester.makepyfile(
        payments=payments, test_once=once, test_worker=worker, test_being_run_again=again
    )
    ran = pytester.runpytest_inprocess("-p", "no:xdist", "-p", "no:cacheprovider", "-W", "error")
    ran.assert_outcomes(passed=8)


@pytest.mark.parametrize(("ci", "outcome"), [("", "skipped"), ("1", "errors")])
def test_without_a_server_tests_are_skipped_and_in_ci_they_fail(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str, outcome: str
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("shared_sync.connection.embedded._PACKAGES", ())
    pytester.makeconftest('pytest_plugins = ["shared_sync.testing.fixtures"]')
    pytester.makepyfile(WITHOUT_SERVER)
    ran = pytester.runpytest_inprocess("-p", "no:xdist", "-rs")
    ran.assert_outcomes(**{outcome: 1})
    ran.stdout.fnmatch_lines(["*no redis-server on this machine: pip install*"])
