"""A worker whose values a test sets, and the browser that looks at its page."""

from __future__ import annotations

import base64
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import ask, eventually, free_port
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from shared_sync import HealthServer
from shared_sync.health_server.time_series import History

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1360,900",
    "--host-resolver-rules=MAP *.evil.example 127.0.0.1",
)
PERIOD = 5.0
LOOK_EVERY_SECONDS = 0.05
"""How often the page is read while a test waits. Each time keeps the browser busy for 10 ms."""

GONE = re.compile(r"Failed to load resource: (net::ERR_|.*status of 503)")


class Worker:
    """A real HealthServer whose data, and past, are those that the test sets.

    Set them before it is started or later; a name among `views` or `checks` counts at the start.
    """

    def __init__(self) -> None:
        self.instance_id = "stt-1"
        self.options: dict[str, Any] = {}  # of the server
        self.health: dict[str, Any] = {}
        self.metrics: dict[str, Any] = {}
        self.views: dict[str, Mapping[str, Any] | Callable[[], Any]] = {}
        self.checks: dict[str, Any] = {}  # what each returns, or a function that does
        self.check_options: dict[str, dict[str, Any]] = {}
        self.history = History()
        self._port = free_port()
        self._server: HealthServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/"

    def start(self) -> None:
        """Serve, again on the same port after `stop()`."""
        if self._server is None:
            self._server = self._make()
        # The server's own samples go where nobody reads them: the past is the test's.
        self._server._state.history = History()
        self._server.start_server()
        self._server._state.history = self.history

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop_server()

    def replace(self) -> None:
        """As after a crash: another process on the same port, that knows nothing of the past."""
        self.stop()
        self._server, self.history = None, History()
        self.start()

    def _make(self) -> HealthServer:
        server = HealthServer(
            self.instance_id,
            self._port,
            None,
            lambda: self.health,
            lambda: self.metrics,
            host="127.0.0.1",
            **self.options,
        )
        for name in self.views:
            server.add_view(
                name, lambda name=name: _result_of(self.views[name]), timeout_seconds=0.5
            )
        for name in self.checks:
            options = {"period_seconds": 0.05, **self.check_options.get(name, {})}
            server.add_check(name, lambda name=name: _result_of(self.checks[name]), **options)
        return server

    def sample(self, at: float | None = None) -> None:
        """Take the values of now into the history."""
        self.history.record(time.time() if at is None else at, {**self.health, **self.metrics})

    def past(self, values: Callable[[int], dict[str, float | None]], number: int = 720) -> None:
        """So many samples before now, each with the values that a function gives to its place."""
        end = time.time()
        for place in range(number):
            self.metrics |= values(place)
            self.sample(end - (number - 1 - place) * PERIOD)

    def api(self) -> dict[str, Any]:
        """What /api/state says to anybody who asks."""
        return ask(f"{self.url}api/state")[1]

    def ask_for_metrics(self) -> None:
        """As a scrape does; by itself the server asks for them every 5 s."""
        ask(f"{self.url}metrics")


def _result_of(source: Any) -> Any:
    return source() if callable(source) else source


@contextmanager
def chromium(folder: Path, pictures: Path | None, *flags: str) -> Iterator[Page]:
    """A browser with a profile of its own in a folder."""
    options = ChromeOptions()
    options.binary_location = program("chromium")
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}", *flags):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # A log of our own, because some versions leave theirs open.
    with (folder / "driver.log").open("wb") as log:
        service = Service(executable_path=program("chromedriver"), log_output=log)
        driver = Chrome(options=options, service=service)
        try:
            driver.set_script_timeout(15)
            yield Page(driver, pictures)
        finally:
            driver.quit()


def program(name: str) -> str:
    """The path of Chromium or its driver."""
    path = shutil.which(name)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"no {name} here, and CI must not skip what needs it")
        pytest.skip(f"no {name} on PATH")
    return path


class Page:
    """The page in the browser, in the words of the tests."""

    def __init__(self, driver: Chrome, pictures: Path | None) -> None:
        self.driver = driver
        self.pictures = pictures

    def open(self, url: str) -> None:
        self.driver.get(url)

    def run(self, script: str, *arguments: object) -> Any:
        """What a function with this body returns on the page."""
        return self.driver.execute_script(script, *arguments)

    def find(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def text(self, css: str = "body") -> str:
        """What a reader sees of these elements; empty if there is nothing to be seen."""
        # At one go: the page may draw them anew between two questions of the driver.
        seen = self.run(
            """return [...document.querySelectorAll(arguments[0])]
                 .filter((node) => node.checkVisibility())
                 .map((node) => node.innerText ?? node.textContent).join('\\n')""",
            css,
        )
        return str(seen)

    def rows(self, css: str) -> list[list[str]]:
        """The texts of the cells of each row of a table that is seen."""
        rows: list[list[str]] = self.run(
            """return [...document.querySelectorAll(arguments[0] + ' tbody tr')]
                 .map((row) => [...row.cells].map((cell) => cell.innerText.trim()))""",
            css,
        )
        return rows

    def shows(self, text: str, css: str = "body", *, within: float = 15.0) -> None:
        """Wait until an element shows a text."""
        eventually(lambda: text in self.text(css), within=within, every=LOOK_EVERY_SECONDS)

    def open_values(self) -> None:
        """Unfold the table of all values."""
        self.shows("All values", "#figures")
        self.run("document.querySelector('#figures details').open = true")
        eventually(lambda: self.rows("#figures .body"))

    def values(self) -> dict[str, str]:
        return {name: value for name, value, _ in self.rows("#figures .body")}

    def look_at(self, worker: Worker) -> None:
        """Start a worker and open its page."""
        worker.start()
        worker.ask_for_metrics()
        self.open(worker.url)

    def ask_now(self) -> None:
        """Have the page ask at once for what it would ask for within some seconds."""
        self.driver.execute_async_script(
            "dashboard.page.historyAskedAt = -Infinity; dashboard.poll().then(arguments[0])"
        )

    def asks_until(self, text: str, css: str = "body", *, within: float = 15.0) -> None:
        """Have it ask, without its pauses, until an element shows a text."""

        def shown() -> bool:
            self.ask_now()
            return text in self.text(css)

        eventually(shown, within=within, every=LOOK_EVERY_SECONDS)

    def asked(self, path: str) -> list[str]:
        """What of the server's addresses this page has asked for since it was opened."""
        names: list[str] = self.run(
            "return performance.getEntriesByType('resource').map((entry) => entry.name)"
        )
        return [name for name in names if path in name]

    def complaints(self) -> list[str]:
        """What the browser's console has complained of since the last time.

        But for what the browser itself says of a server that stops or is not there.
        """
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING") and not GONE.search(entry["message"])
        ]

    def command(self, name: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, parameters)

    def size(self, width: int, height: int = 900, *, phone: bool = False) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )

    def prefers(self, scheme: str) -> None:
        """What the system of the reader is set to: light or dark."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.command("Emulation.setEmulatedMedia", features=[feature])

    def picture(self, name: str) -> None:
        """Keep a picture of the whole page, if somebody wants them."""
        if self.pictures is None:
            return
        size = self.command("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        taken = self.command(
            "Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip
        )
        (self.pictures / f"{name}.png").write_bytes(base64.b64decode(taken["data"]))


def pictures_folder() -> Path | None:
    """Where the pictures go: DASHBOARD_SCREENSHOTS."""
    wanted = os.environ.get("DASHBOARD_SCREENSHOTS")
    if not wanted:
        return None
    folder = Path(wanted)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def too_faint(page: Page, *, texts: int = 60) -> list[list[Any]]:
    """The visible texts whose contrast with their background is below 4.5:1.

    There must be so many `texts` at least.
    """
    faint: list[list[Any]] = page.run(
        """
        const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
        const rgba = (colour) => {
          canvas.clearRect(0, 0, 1, 1);
          canvas.fillStyle = colour;
          canvas.fillRect(0, 0, 1, 1);
          return [...canvas.getImageData(0, 0, 1, 1).data];
        };
        const luminance = (colour) => {
          const [r, g, b] = colour.map((c) => c / 255)
            .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ground = (node) => {
          for (; node; node = node.parentElement) {
            const colour = rgba(getComputedStyle(node).backgroundColor);
            if (colour[3] === 255) return colour;
            if (colour[3] !== 0) throw Error('half transparent ground of ' + node.outerHTML);
          }
          throw Error('no ground');
        };
        const faint = [];
        let seen = 0;
        for (const node of document.querySelectorAll('body *')) {
          const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
          if (!own || !node.checkVisibility() || node.matches('.unseen, option')) continue;
          const style = getComputedStyle(node);
          const colour = node instanceof SVGElement ? style.fill : style.color;
          const [a, b] = [luminance(rgba(colour)), luminance(ground(node))].sort((x, y) => y - x);
          const contrast = (a + 0.05) / (b + 0.05);
          seen += 1;
          if (contrast < 4.5) faint.push([node.textContent.trim().slice(0, 40), contrast]);
        }
        if (seen < arguments[0]) throw Error('only ' + seen + ' texts');
        return faint;
        """,
        texts,
    )
    return faint
