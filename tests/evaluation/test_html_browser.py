"""A person's way through the HTML report, in headless Chromium: hears, switches, sorts, filters; no error, no request."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_report import toy_report

from tokenizers_mm.evaluation.html import write_html

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed")
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
HOSTILE = "</script><img src=x onerror=window.hacked=1>.wav"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    items = ("a.wav", "b.wav", "sub/c.wav", "d.wav", HOSTILE)
    failing = {("bad", "b.wav"): "RuntimeError: <b>no</b>"}
    report = toy_report(folder / "kept", items, conditions=("clean", "noisy"), failing=failing)
    return write_html(report, folder / "report.html", items_folder=folder / "kept", limit=4).as_uri()


class Reader:
    """Somebody with the page open."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver = driver
        self.size(1280, 900)
        driver.get(address)

    def size(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list:
        return [e for e in self.driver.find_elements("css selector", selector) if e.is_displayed()]

    def click(self, selector: str, index: int = 0) -> None:
        element = self.all(selector)[index]
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        element.click()

    def keys(self, text: str) -> None:
        self.driver.switch_to.active_element.send_keys(text)

    def choose(self, selector: str, value: str) -> None:
        script = """
            arguments[0].value = arguments[1];
            for (const kind of ["input", "change"]) arguments[0].dispatchEvent(new Event(kind, {bubbles: true}));
        """
        self.run(script, self.all(selector)[0], value)

    def wait(self, condition: Callable[[], object]) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 30, 0.1).until(lambda _: condition())

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.all(selector)]

    def position(self, card: int = 0) -> float:
        return float(self.run("return document.querySelectorAll('.item input[type=range]')[arguments[0]].value", card))

    def playing(self) -> list[int]:
        return self.run(
            "return [...document.querySelectorAll('.item')].flatMap((e, i) => e.classList.contains('playing') ? [i] : [])"
        )

    def sounding(self) -> list[str]:
        return self.run(
            "return [...document.querySelectorAll('[data-sounding]')].map((e) => e.getAttribute('aria-label'))"
        )


@pytest.fixture
def reader(chromium: Any, address: str) -> Iterator[Reader]:
    chromium.get_log("browser"), chromium.get_log("performance")
    yield Reader(chromium, address)
    assert [entry for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    messages = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if url != address and not url.startswith("data:")] == []


def test_one_version_plays_at_a_time_and_switching_keeps_the_position(reader: Reader):
    reader.click(".item:first-child .pick:enabled")
    reader.wait(lambda: reader.position() > 0.2)
    assert reader.playing() == [0]
    assert reader.sounding() == ["Original"]
    before = reader.position()
    reader.keys("1")
    assert reader.sounding() == ["good"]
    assert reader.position() >= before
    reader.keys("x")
    assert reader.sounding() == ["Original"]
    reader.click(".item:nth-child(2) .pick:enabled", 1)
    reader.wait(lambda: reader.playing() == [1])
    reader.click(".item:nth-child(2) .transport button")
    reader.wait(lambda: reader.playing() == [])
    stopped = reader.position(1)
    assert 0 < stopped < 3
    reader.keys("k")
    reader.keys("0")
    reader.wait(lambda: reader.playing() == [0])


def test_a_clip_ends_at_its_end_and_starts_again(reader: Reader):
    reader.click(".item:first-child .transport button")
    reader.wait(lambda: reader.position() > 0)
    reader.wait(lambda: reader.playing() == [])
    assert reader.position() == 0
    assert reader.texts(".item:first-child .transport button") == ["Play"]


def test_columns_sort_with_the_best_first_and_then_the_other_way(reader: Reader):
    order = "return [...document.querySelectorAll('#summary tbody tr:not([hidden])')].map((row) => row.cells[0].dataset.value)"
    heads = reader.texts("#summary thead button")
    column = next(i for i, text in enumerate(heads) if text.startswith("STOI"))
    head = reader.all("#summary thead th")[column]
    reader.click("#summary thead button", column)
    assert head.get_attribute("aria-sort") == "descending"
    assert reader.run(order) == ["Opus 24k", "good", "Opus 6k", "bad"]
    reader.click("#summary thead button", column)
    assert head.get_attribute("aria-sort") == "ascending"
    assert reader.run(order) == ["bad", "Opus 6k", "good", "Opus 24k"]
    reader.click("#summary thead button", 0)
    assert head.get_attribute("aria-sort") == "none"
    assert reader.run(order) == ["bad", "good", "Opus 6k", "Opus 24k"]


def test_items_are_filtered_and_sorted(reader: Reader):
    names = ".item h3"
    assert reader.texts(names) == ["b.wav", HOSTILE, "d.wav", "sub/c.wav", "a.wav"]
    assert "RuntimeError: <b>no</b>" in reader.texts(".item .error")
    reader.choose("#sort-order", "best")
    assert reader.texts(names) == ["a.wav", "sub/c.wav", "d.wav", HOSTILE, "b.wav"]
    reader.choose("#sort-codec", "good")
    reader.choose("[data-label=language]", "en")
    assert reader.texts(names) == ["d.wav", "b.wav"]
    reader.choose("[data-label=language]", "")
    reader.all("#filter-text")[0].send_keys("SUB")
    assert reader.texts(names) == ["sub/c.wav"]
    assert reader.texts("#items-count") == ["1 of 5 items"]
    reader.run("document.getElementById('filter-text').value = ''")
    reader.click("#filter-failed")
    assert reader.texts(names) == ["b.wav"]
    reader.click("#series-filter button[data-name=bad]")
    assert reader.texts(names) == []


def test_a_codec_that_is_hidden_leaves_the_cards(reader: Reader):
    versions = ".item:nth-child(2) .version .pick span"
    assert reader.texts(versions) == ["Original", "good", "bad", "Opus 6k", "Opus 24k"]
    reader.click("#series-filter button[data-name='Opus 6k']")
    assert reader.texts(versions) == ["Original", "good", "bad", "Opus 24k"]
    assert reader.texts(".item:nth-child(2) kbd") == ["0", "1", "2", "3"]
    reader.click(".item:nth-child(2) summary")
    assert reader.texts(".item:nth-child(2) details thead th") == ["metric", "good", "bad", "Opus 24k"]


def test_conditions_are_shown_one_at_a_time(reader: Reader):
    assert len(reader.all("#summary tbody tr")) == 4
    reader.choose("#condition", "noisy")
    assert len(reader.all("#summary tbody tr")) == 4
    assert all("noisy" in text for text in reader.texts("#summary tbody th"))
    assert len(reader.all("#token-cards .card")) == 2
    assert reader.texts(".item:nth-child(2) .version .pick span")[0] == "Original"


def test_use_of_the_codebooks_is_drawn_by_rank_and_over_time(reader: Reader):
    card = "#token-cards .card:first-child "
    labels = [e.get_attribute("aria-label") for e in reader.all(card + "svg")]
    assert labels[0] == "Share of the ids by rank of the entry, good"
    assert re.fullmatch(r"Entries seen by ids seen, good: [\d.]+ %, [\d.]+ % at the end", labels[1]), labels
    curves = [e.get_attribute("points") for e in reader.all(card + ".curve")]
    assert len(curves) == 4  # two of each codebook
    assert not any("NaN" in points for points in curves)


def test_plot_follows_the_metric_and_tells_the_numbers(reader: Reader):
    points = "#rate-plot .series"
    labels = {e.get_attribute("aria-label") for e in reader.all(points)}
    assert any(label.startswith("good, 1.25 kbit/s, STOI: 0.800 ± ") for label in labels), labels
    assert len(labels) == 4
    assert len(reader.all("#rate-plot polyline")) == 1  # the Opus family
    reader.choose("#rate-metric", "mel")
    assert all("mel:" in e.get_attribute("aria-label") for e in reader.all(points))
    assert "lower is better" in reader.driver.find_element("css selector", "#rate-plot").text


def test_theme_switches(reader: Reader):
    background = "return getComputedStyle(document.body).backgroundColor"
    before = reader.run(background)
    reader.click("#theme")
    assert reader.run(background) != before
    reader.click("#theme")
    assert reader.run(background) == before


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_page_never_scrolls_sideways(reader: Reader, width: int):
    reader.size(width, 844)
    for summary in reader.all("details > summary"):
        reader.run("arguments[0].click()", summary)
    reader.run("document.getElementById('all-columns').click()")
    assert reader.run("return document.documentElement.scrollWidth") <= width


def test_no_name_runs(reader: Reader):
    assert HOSTILE in reader.texts(".item h3")
    assert reader.run("return window.hacked === undefined && !document.querySelector('img[src=x]')")


def test_an_injected_script_would_not_run_either(chromium: Any, address: str):
    chromium.get(address)
    chromium.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 1'; document.body.append(s)"
    )
    assert chromium.execute_script("return window.hacked === undefined")
    chromium.get_log("browser")


def test_nothing_measured_and_nothing_kept_still_makes_a_page(chromium: Any, tmp_path: Path):
    failing = {(codec, "a.wav"): "ValueError: broken" for codec in ("good", "bad")}
    report = toy_report(items=("a.wav",), codecs=("good", "bad"), failing=failing)
    chromium.get_log("browser")
    chromium.get(write_html(report, tmp_path / "r.html", items_folder=None).as_uri())
    assert "ValueError: broken" in chromium.find_element("id", "item-list").text
    assert [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"] == []
