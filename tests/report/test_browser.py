"""report.html as Chromium shows it, wide and on a phone, light and dark.

The screenshots are kept where TFSLIM_SCREENSHOTS names a folder.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.report import samples
from tests.report.browser import CHROMIUM, Browser
from tfslim_core.report import write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to open the page with")

WIDE, PHONE = (1280, 900), (390, 844)
VIEWS = [(size, scheme) for size in (WIDE, PHONE) for scheme in ("light", "dark")]
NAMES = [f"{'wide' if size == WIDE else 'phone'}-{scheme}" for size, scheme in VIEWS]
# The luminance contrast of WCAG 2.2 between the text of each element and what it is painted on.
CONTRASTS = """
(() => {
  // Styles name mixed colours too; the canvas knows what all of them are.
  const pixel = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
  const paint = pixel.getContext("2d", {willReadFrequently: true});
  const read = (colour) => {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = colour;
    paint.fillRect(0, 0, 1, 1);
    return [...paint.getImageData(0, 0, 1, 1).data];
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const [r, g, b, a] = read(getComputedStyle(node).backgroundColor);
      if (a === 255) return [r, g, b];
    }
    return read(getComputedStyle(document.documentElement).colorScheme.includes("dark") &&
      matchMedia("(prefers-color-scheme: dark)").matches ? "#121212" : "#ffffff").slice(0, 3);
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((part) => part / 255).map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const weakest = {};
  for (const node of document.querySelectorAll("body *")) {
    const text = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!text || node.closest("svg, script, .hidden, .skip, details:not([open])") || !node.offsetParent) continue;
    const [low, high] = [luminance(read(getComputedStyle(node).color).slice(0, 3)), luminance(ground(node))].sort(
      (a, b) => a - b);
    const name = node.tagName.toLowerCase() + "." + node.className;
    weakest[name] = Math.min(weakest[name] ?? 21, (high + 0.05) / (low + 0.05));
  }
  return weakest;
})()
"""
CLIPPED = """
[...document.querySelectorAll("main *")]
  .filter((node) => !node.closest("svg, .scroll, .hidden, details:not([open]), pre") && node.offsetParent)
  .filter((node) => node.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map((node) => node.tagName + "." + node.className)
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A verdict that fails: the page with the most on it."""
    return write_report(tmp_path_factory.mktemp("report"), samples.verdict("fail"), samples.context(60))


@pytest.fixture(scope="module")
def browser():
    with Browser() as opened:
        yield opened


@pytest.fixture(params=VIEWS, ids=NAMES, scope="module")
def view(request, browser, page):
    """The page in each view; (browser, width, height, scheme)."""
    (width, height), scheme = request.param
    browser.open(page, width, height, scheme)
    return browser, width, height, scheme


def test_nothing_is_wider_than_the_screen(view):
    browser, width, _, _ = view
    assert browser.run("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert browser.run(CLIPPED) == []


def test_the_verdict_is_on_the_first_screen(view):
    browser, width, height, _ = view
    box = browser.run("(({top, bottom, left, right}) => [top, bottom, left, right])"
                      "(document.querySelector('h1').getBoundingClientRect())")  # fmt: skip
    assert 0 <= box[0] < box[1] <= height
    assert 0 <= box[2] < box[3] <= width
    assert browser.run("document.querySelector('h1').innerText").startswith("✕ Fail")


def test_text_can_be_told_from_its_ground(view):
    weakest = view[0].run(CONTRASTS)
    assert {"h1.", "span.outcome", "h2.", "li.", "span.interval"} <= weakest.keys()
    assert {name: contrast for name, contrast in weakest.items() if contrast < 4.5} == {}


def test_the_scheme_is_the_one_that_was_asked_for(view):
    browser, _, _, scheme = view
    ground = browser.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (np.mean(ground) > 200) == (scheme == "light")


def test_a_screenshot_shows_it(view, tmp_path):
    browser, width, height, scheme = view
    folder = Path(os.environ.get("TFSLIM_SCREENSHOTS", tmp_path))
    pixels = browser.screenshot(folder / f"{width}-{scheme}.png")
    assert pixels.shape == (height, width, 3)
    assert pixels.std() > 0.05
    # Each tenth of the screen has something on it, in more than one colour.
    for part in np.array_split(pixels, 10):
        assert len(np.unique((part * 255).astype(np.uint8).reshape(-1, 3), axis=0)) > 3
    assert (pixels.mean() > 0.7) == (scheme == "light")
    assert (pixels.mean() < 0.3) == (scheme == "dark")


def test_nothing_is_asked_of_a_network_or_refused(view, page):
    browser = view[0]
    assert browser.requested() == [page.as_uri()]
    assert browser.complaints() == []


def test_the_policy_refuses_any_other_script(browser, page, tmp_path):
    html = page.read_text().replace("</main>", "<script>document.title = 'taken'</script></main>")
    html = html.replace("</main>", "<img src='http://127.0.0.1:9/x.png' onerror=\"document.title='taken'\"></main>")
    (tmp_path / "tampered.html").write_text(html)
    browser.open(tmp_path / "tampered.html", *WIDE, "light")
    assert browser.run("document.title") == "Fail: text_classifier, version 12"
    assert browser.run("document.querySelectorAll('table.slices thead button').length") > 0
    assert len(browser.complaints()) >= 2
    assert any("Content Security Policy" in complaint for complaint in browser.complaints())


def test_slices_sort_by_any_column_both_ways(browser, page):
    browser.open(page, *PHONE, "light")
    table = "document.querySelector('table.slices')"
    heads = browser.run(f"[...{table}.tHead.rows[0].cells].map((cell) => cell.innerText.trim())")
    column = heads.index("Examples")
    shown = f"[...{table}.tBodies[0].rows].map((row) => Number(row.cells[{column}].innerText))"
    click = f"{table}.tHead.rows[0].cells[{column}].querySelector('button').click()"
    before = browser.run(shown)
    assert before == sorted(before) == [41 + 9 * place for place in range(12)]
    for order, state in ((sorted(before, reverse=True), "descending"), (before, "ascending")):
        browser.run(click)
        assert browser.run(shown) == order
        assert browser.run(f"{table}.tHead.rows[0].cells[{column}].getAttribute('aria-sort')") == state
    rates = heads.index("Same top class")
    browser.run(f"{table}.tHead.rows[0].cells[{rates}].querySelector('button').click()")
    assert browser.run(f"{table}.tBodies[0].rows[11].cells[0].innerText") == "language=perl"
