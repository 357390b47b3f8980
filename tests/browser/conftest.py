"""A headless Chromium, pages to open in it, and what a person would do there."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import onnxq
from onnxq.report.html.comparison_page import render_comparison
from onnxq.report.html.run_page import render_part, render_run

MODELS = Path(__file__).parents[2] / "models"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
WIDE, NARROW = (1400, 900), (400, 850)


class Browser:
    """A tab; `errors` is what the console complained about."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def size(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def scheme(self, name: str) -> None:
        # Without motion: what slides in cannot be clicked yet.
        features = [
            {"name": "prefers-color-scheme", "value": name},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, page: Path) -> None:
        self.driver.get_log("browser")
        self.driver.get("about:blank")
        self.driver.get(page.as_uri())
        self.wait("document.documentElement.dataset.ready === 'true'")

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: str) -> None:
        """Until an expression holds: charts are drawn once their width is known."""
        for _ in range(200):
            if self.js(f"return Boolean({condition})"):
                return
            time.sleep(0.05)
        raise TimeoutError(condition)

    def click(self, css: str, at: int = 0) -> None:
        """A click as the mouse makes one, on what lies on top at the middle of an element that can be seen."""
        seen = [element for element in self.driver.find_elements("css selector", css) if element.is_displayed()]
        seen[at].click()

    def type(self, css: str, text: str) -> None:
        field = self.driver.find_element("css selector", css)
        field.clear()
        field.send_keys(text)

    def press(self, key: str) -> None:
        """A key for whatever has the focus."""
        self.driver.switch_to.active_element.send_keys(key)

    def texts(self, css: str) -> list[str]:
        """Texts of the elements that can be seen."""
        script = "return [...document.querySelectorAll(arguments[0])].filter(e => e.offsetParent).map(e => e.innerText)"
        return [str(text) for text in self.js(script, css)]

    @property
    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    selenium = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra `dev`")
    from selenium.webdriver.chrome.service import Service  # noqa: PLC0415 - not there without the extra

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("needs chromium and chromedriver (apt-get install chromium chromium-driver)")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = selenium.Chrome(options=options, service=Service(chromedriver))
    yield made
    made.quit()


@pytest.fixture
def browser(driver: Any) -> Browser:
    tab = Browser(driver)
    tab.size(*WIDE)
    tab.scheme("light")
    return tab


@pytest.fixture(scope="session")
def reports() -> tuple[dict[str, Any], dict[str, Any]]:
    """A real model, quantized in two ways."""
    made = []
    for method in ("auto", "entropy"):
        result = onnxq.quantize(
            MODELS / "digits_resnet.onnx",
            MODELS / "digits_resnet.calib.npz",
            target="ort-x64-vnni",
            method=method,
            limit=40,
            details=True,
            exclude=("/8/*",) if method == "entropy" else (),
        )
        made.append(json.loads(result.report.to_json()))
    return made[0], made[1]


@pytest.fixture(scope="session")
def ranking() -> dict[str, Any]:
    found = onnxq.sensitivity(
        MODELS / "digits_resnet.onnx", MODELS / "digits_resnet.calib.npz", target="ort-x64-vnni", limit=16, samples=8
    )
    return json.loads(found.to_json())


Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(text: str) -> Path:
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        return path

    return put


@pytest.fixture
def page(reports: tuple[dict[str, Any], dict[str, Any]], ranking: dict[str, Any], write: Write) -> Path:
    return write(render_run(reports[0], sensitivity=ranking))


@pytest.fixture
def comparison(reports: tuple[dict[str, Any], dict[str, Any]], write: Write) -> Path:
    return write(render_comparison(*reports, names=("auto", "entropy")))


@pytest.fixture
def ranking_page(ranking: dict[str, Any], write: Write) -> Path:
    return write(render_part(ranking, title="digits"))
