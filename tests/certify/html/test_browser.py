"""The report in a real browser: it renders, sorts, filters and enlarges, by mouse and keyboard, without an error."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lipnet.certify.html import AttackedImages, write_comparison, write_report
from tests.certify.html.synthetic import make_images, make_run
from tests.certify.html.test_page import HOSTILE
from tests.certify.html.test_pictures import result_of

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'lipnet[browser]'")

ATTACK = {
    "method": "PGD",
    "settings": {"steps": 20},
    "n_samples": 60,
    "accuracy": {"36/255": {"certified": 0.1, "under_attack": 0.2, "clean": 0.3}},
    "n_certified": 50,
    "flipped": {"1": 0.0},
    "unconfirmed": 0,
    "wall_seconds": 1.5,
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium: the system's, or else playwright's own."""
    with playwright.sync_playwright() as tools:
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        if path is None and not Path(tools.chromium.executable_path).exists():
            pytest.skip("needs chromium: apt-get install chromium, or playwright install chromium")
        # As root, as in containers, chromium only starts without its sandbox.
        started = tools.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Open a file as by a double click; the test fails if it logs, asks the network for anything, or raises."""
    problems: list[str] = []
    contexts = []

    def watched(path: Path, width: int = 1100, height: int = 900, **settings: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **settings))
        page = contexts[-1].new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(f"dialog {dialog.message}"), dialog.dismiss()))
        local = ("file:", "blob:", "data:")
        page.on("request", lambda request: problems.append(request.url) if not request.url.startswith(local) else None)
        page.goto(path.as_uri())
        return page

    yield watched
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of 150 images of 5 classes, the first 60 attacked."""
    folder = tmp_path_factory.mktemp("report")
    make_run(folder, count=150, attack=ATTACK)
    images = make_images(150)
    attacked = AttackedImages()
    result = result_of((images[:60] + 0.02).clamp(0, 1))
    result.distance[:] = torch.linspace(1, 2, 60)
    result.distance[3] = float("inf")
    attacked.add(images[:60], result)
    return write_report(folder, [images], attacked=attacked)


def radii_shown(page: Any) -> list[float]:
    return [float(text.removeprefix("radius ")) for text in page.locator(".tile .radius").all_inner_texts()]


def test_figures_charts_and_gallery_are_there(report: Path, open_page: Any) -> None:
    page = open_page(report)
    assert page.title() == "Certified robustness: synthetic, test images"
    assert page.locator(".cards dd").count() == 5
    for chart in page.locator("svg.chart").all():
        assert chart.bounding_box()["height"] > 200
    assert page.locator(".tile").count() == 60
    # The sheet of the tiles was decoded and is drawn.
    url = page.locator(".tile .sprite").first.evaluate("each => getComputedStyle(each).backgroundImage.slice(5, -2)")
    size = page.evaluate(
        "url => new Promise((done, fail) => { const i = new Image(); i.onload = () => done(i.naturalWidth);"
        " i.onerror = fail; i.src = url; })",
        url,
    )
    assert size == 32 * 8


@pytest.mark.slow
def test_the_orders_of_the_gallery(report: Path, open_page: Any) -> None:
    page = open_page(report)
    assert radii_shown(page) == sorted(radii_shown(page), reverse=True)
    assert page.locator(".tile.mistake").count() == 0
    page.select_option("#order", "unsure")
    assert radii_shown(page) == sorted(radii_shown(page))
    page.select_option("#order", "wrong")
    assert radii_shown(page) == sorted(radii_shown(page), reverse=True)
    assert page.locator(".tile").count() == page.locator(".tile.mistake").count() > 0
    page.select_option("#order", "flipped")
    assert page.locator("#count").inner_text() == "59 of 59 images"


@pytest.mark.slow
def test_the_class_filter_and_more_images(report: Path, open_page: Any) -> None:
    page = open_page(report)
    page.select_option("#order", "file")
    assert page.locator("#count").inner_text() == "60 of 150 images"
    page.click("#more")
    assert page.locator(".tile").count() == 120
    page.click("#more")
    assert not page.locator("#more").is_visible()
    page.select_option("#class", "2")
    labels = page.locator(".tile .verdict").all_inner_texts()
    assert len(labels) == 30
    assert {label.split(" ")[0] for label in labels} == {"2"}


@pytest.mark.slow
def test_the_table_of_classes_sorts(report: Path, open_page: Any) -> None:
    page = open_page(report)
    heading = page.locator("#class-table th", has_text="clean %")
    expected: dict[str, bool] = {"descending": True, "ascending": False}
    for order, reverse in expected.items():
        heading.locator("button").press("Enter")
        assert heading.get_attribute("aria-sort") == order
        values = [float(text) for text in page.locator("#class-table tbody tr td:nth-child(3)").all_inner_texts()]
        assert values == sorted(values, reverse=reverse)


@pytest.mark.slow
def test_the_curve_is_read_by_slider_and_pointer(report: Path, open_page: Any) -> None:
    page = open_page(report)
    share = page.locator("figure svg#curve + label + output")
    at_zero = share.inner_text()
    page.focus("#radius")
    for _ in range(5):
        page.keyboard.press("PageUp")
    moved = share.inner_text()
    assert at_zero.startswith("radius 0.000 = 0.0/255: ")
    assert moved != at_zero
    page.hover("#curve", position={"x": 60, "y": 100})
    assert share.inner_text() not in (at_zero, moved)


def test_an_image_is_enlarged_and_left_by_keyboard(report: Path, open_page: Any) -> None:
    page = open_page(report)
    page.select_option("#order", "file")
    page.locator(".tile").nth(2).press("Enter")
    title = page.locator("#viewer-title")
    assert title.inner_text() == "Image 9"
    assert page.locator("#viewer-images figure").count() == 3
    assert "1.03390" in page.locator("#viewer-facts").inner_text()
    page.keyboard.press("ArrowRight")
    assert title.inner_text() == "Image 10"
    assert "found no other prediction" in page.locator("#viewer-facts").inner_text()
    assert page.locator("#viewer-images figure").count() == 1
    page.click("#previous")
    assert title.inner_text() == "Image 9"
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    assert "Image 9" in page.evaluate("document.activeElement.getAttribute('aria-label')")


def test_hostile_names_do_nothing(tmp_path: Path, open_page: Any) -> None:
    make_run(tmp_path, dataset=HOSTILE[0], checkpoint=HOSTILE[1])
    page = open_page(write_report(tmp_path, [make_images(100)], class_names=HOSTILE, command=HOSTILE[0]))
    assert page.locator("#class option").all_inner_texts() == ["all classes", *HOSTILE]
    page.select_option("#order", "wrong")
    page.locator(".tile").first.click()
    assert any(name in page.locator("#viewer-facts").inner_text() for name in HOSTILE)
    assert page.locator("img").count() == 0


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_follows_the_colour_scheme(report: Path, open_page: Any, scheme: str) -> None:
    page = open_page(report, width=360, height=700, color_scheme=scheme, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator(".tile").first.tap()
    box = page.locator("#viewer").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    # Relative luminance by the definition of WCAG: text must contrast with its background by at least 4.5.
    contrast = page.evaluate(
        """() => {
          const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255)
            .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
            .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
          const back = light(getComputedStyle(document.body).backgroundColor);
          return [".lead", ".note", ".alarm, nav a", "figcaption"].map((each) => {
            const text = light(getComputedStyle(document.querySelector(each)).color);
            return (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
          });
        }"""
    )
    assert min(contrast) >= 4.5
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


@pytest.mark.slow
def test_without_scripts_figures_and_charts_are_there(report: Path, open_page: Any) -> None:
    page = open_page(report, java_script_enabled=False)
    assert page.locator(".cards dd").first.is_visible()
    assert page.locator("svg .curve").count() == 1
    assert page.locator("#class-table tbody tr").count() == 5


@pytest.mark.slow
def test_several_runs_are_overlaid(tmp_path: Path, open_page: Any) -> None:
    for number in range(3):
        make_run(tmp_path / f"run{number}", seed=number)
    page = open_page(write_comparison([tmp_path / f"run{number}" for number in range(3)], tmp_path / "compare.html"))
    assert page.locator("svg .curve").count() == 3
    colours = page.locator("svg .curve").evaluate_all("all => all.map((each) => getComputedStyle(each).stroke)")
    assert len(set(colours)) == 3
    assert page.locator("#readout").inner_text().count("%") == 3
    page.locator("th button", has_text="36/255").click()
    values = [float(text) for text in page.locator("tbody tr td:nth-child(4)").all_inner_texts()]
    assert values == sorted(values, reverse=True)


@pytest.mark.slow
def test_ten_thousand_images_are_painted_within_two_seconds(tmp_path: Path, open_page: Any) -> None:
    make_run(tmp_path, count=10_000, num_classes=100)
    path = write_report(tmp_path, make_images(10_000, side=32).split(1000))
    page = open_page(path)
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert paint < 2000
    page.select_option("#order", "file")
    assert page.locator("#count").inner_text() == "60 of 10000 images"
