"""The pages in a real browser: no errors, nothing wider than the screen, sorting and filters.

``make browser`` gets what it needs: Playwright, and Chromium of the system or of Playwright.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from debride.report import Run, compare_runs, render

from .made_up import make_evidence, measure_whole

api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make browser")
pytestmark = pytest.mark.slow
WIDTHS = (360, 768, 1280)
TOO_WIDE = """[...document.querySelectorAll("body *")].filter(each =>
    each.getBoundingClientRect().right > innerWidth + 1 && !each.closest(".scroll")
).map(each => each.tagName + " " + each.textContent.trim().slice(0, 40))"""
SCROLLS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        found = shutil.which("chromium") or shutil.which("google-chrome")
        try:
            started = playwright.chromium.launch(
                executable_path=found,
                args=["--no-sandbox"],  # the only page is our own; containers have no sandbox
            )
        except api.Error:
            pytest.skip("there is no Chromium: make browser")
        yield started
        started.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from .made_up import make_plan, make_run

    folder = tmp_path_factory.mktemp("pages")
    run, whole = make_run(), measure_whole()
    long = tuple(f"a_class_with_a_rather_long_name_{k}" for k in range(4))
    texts = {
        "full": render(run, whole, make_plan()),
        "old": render(run, make_evidence(classes=long), make_plan()),
        "pair": compare_runs([Run(f"run-{k}", run, whole) for k in range(2)]),
        "compared": compare_runs([Run(f"run-{k}", run, whole) for k in range(4)]),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in texts}


def opened(browser: Any, path: Path, width: int, scheme: str = "light") -> tuple[Any, list[str]]:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: errors.append(request.url[:80]))
    page.goto(path.as_uri())
    errors[:] = [each for each in errors if not each.startswith((path.as_uri()[:80], "data:"))]
    return page, errors


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["full", "old", "compared"])
def test_a_page_fits_every_screen_and_has_no_errors(
    browser: Any, files: dict[str, Path], name: str, width: int
) -> None:
    page, errors = opened(browser, files[name], width)
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert page.evaluate(TOO_WIDE) == []
    assert page.evaluate(SCROLLS) == 0
    for landmark in ("main", "header", "nav", "footer", "h1"):
        assert page.locator(f"body > {landmark}, body > header > {landmark}").count() == 1
    assert page.locator("img:not([alt]), img[alt='']").count() == 0
    assert page.locator("svg:not([aria-label])").count() == 0
    assert page.locator("th:not([scope])").count() == 0
    assert errors == []
    page.close()


def test_two_runs_are_compared_without_scrolling_to_the_side(
    browser: Any, files: dict[str, Path]
) -> None:
    page, errors = opened(browser, files["pair"], 360)
    for name in ("Verdicts", "Classes"):
        region = page.locator(f".scroll[aria-label='{name}']")
        assert region.evaluate("each => each.scrollWidth - each.clientWidth") == 0
    assert errors == []
    page.close()


def test_tables_sort_and_say_so(browser: Any, files: dict[str, Path]) -> None:
    page, errors = opened(browser, files["old"], 1280)
    table = page.locator("#classes ~ div table.sortable")
    before = table.locator("tbody th").all_inner_texts()
    head = table.locator("thead th").nth(4)
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    # points lost: -3.8, -0.5, -0.5, +0.2
    sorted_names = table.locator("tbody th").all_inner_texts()
    assert [name[-1] for name in sorted_names] == ["2", "0", "1", "3"]
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert table.locator("tbody th").all_inner_texts()[0] == before[3]
    assert errors == []
    page.close()


def test_pictures_are_filtered_by_what_changed(browser: Any, files: dict[str, Path]) -> None:
    page, errors = opened(browser, files["old"], 768, "dark")
    cards = page.locator("#heatmaps ~ .cards > figure")
    assert cards.count() == 12
    page.get_by_label("Decision").select_option("was right, now wrong")
    assert page.locator("#heatmaps ~ .cards > figure:visible").count() == 3
    assert page.locator("#heatmaps ~ .filters output").inner_text() == "3 of 12 shown"
    page.get_by_label("Decision").select_option("")
    assert page.locator("#heatmaps ~ .cards > figure:visible").count() == 12
    assert errors == []
    page.close()


def test_all_is_there_without_a_script(browser: Any, files: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 360, "height": 800})
    page = context.new_page()
    page.goto(files["full"].as_uri())
    assert page.locator("section:visible").count() == 13
    assert page.locator(".filters, th button").count() == 0
    context.close()


def test_what_is_printed_has_everything_open(
    browser: Any, files: dict[str, Path], tmp_path: Path
) -> None:
    page, _ = opened(browser, files["full"], 1280)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    assert page.pdf(format="A4")[:5] == b"%PDF-"
    page.close()
