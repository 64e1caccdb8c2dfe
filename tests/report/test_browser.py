"""The page in a real browser, from disk and without a network."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from studies import Maker

from layerprune.config.compose import compose
from layerprune.record.point import Point
from layerprune.report import draw
from layerprune.run import pipeline

pytestmark = pytest.mark.slow

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
EVIL = "<script>alert(1)</script>"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}

DRAWN = "() => figures.every((figure) => !figure.near || !figure.stale) && !drawing"
"""In the page: whatever is near to what is seen has been drawn."""


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"needs one of {', '.join(BROWSERS)}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass(frozen=True)
class Study:
    study: Path
    made: list[Point]


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_folder):
    """A real one: two models, one of them with a hostile name, two strategies, a curve healed."""
    outputs = tmp_path_factory.mktemp("browser")
    healed = [
        "heal=lora",
        "model.healing.steps=2",
        "heal.sequence_length=32",
        "heal.batch_size=2",
        "prune.fraction=[0.25,0.5]",
    ]
    speed = ["eval.speed.rounds=1", "eval.speed.new_tokens=2", "eval.speed.prompt_tokens=4"]
    made = []
    for model in ("tiny", EVIL):
        for more in ([*speed, "prune=block"], ["prune=deepest"], healed):
            made += pipeline.run(
                compose(
                    "model=custom",
                    f"model.path={tiny_folder}",
                    f"model.name='{model}'",
                    "prune.fraction=[0,0.125,0.25,0.375,0.5,0.625,0.75]",
                    "eval.tasks=[facts]",
                    "eval.limit=2",
                    "data.sequence_length=32",
                    "data.calibration_sequences=4",
                    "data.heldout_sequences=2",
                    f"runtime.outputs={outputs}",
                    "study=seen",
                    *more,
                )
            )
    draw(outputs / "seen")
    return Study(outputs / "seen", made)


@pytest.fixture
def visit(browser, study):
    """Opens the page; at the end there must have been no error, no dialog and no request."""
    wrong = []
    contexts = []

    def refuse(route):
        wrong.append(f"request: {route.request.url}")
        route.abort()

    def open_page(viewport=DESKTOP, scheme="light"):
        context = browser.new_context(
            viewport=viewport, color_scheme=scheme, reduced_motion="reduce"
        )
        contexts.append(context)
        context.set_offline(True)
        context.route("http*://**", refuse)
        page = context.new_page()
        page.on("console", lambda said: wrong.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.goto((study.study / "report.html").resolve().as_uri())
        see_all(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def see_all(page):
    """Scroll through the page, so that every figure is drawn."""
    for card in page.locator("[data-spec]").all():
        card.scroll_into_view_if_needed()
        page.wait_for_timeout(50)
        page.wait_for_function(DRAWN)
    page.evaluate("scrollTo(0, 0)")


def in_view(page, figure):
    """The data that the figure's view holds, as Vega sees them."""
    page.wait_for_function(DRAWN)
    return page.evaluate(
        """(name) => {
            const {view} = document.querySelector(`[data-spec="spec-${name}"]`);
            const {data} = view.getState({data: (name) => name.startsWith("source"),
                                          signals: () => false, recurse: false});
            return Object.values(data)[0];
        }""",
        figure,
    )


def curves_of(rows):
    return {row["curve"] for row in rows if row.get("kind") == "point"}


def test_every_figure_is_drawn_with_what_the_records_say(visit, study):
    page = visit()
    assert page.locator("[data-spec]").count() == page.locator(".chart svg.marks").count()
    assert page.locator(".card > img:visible").count() == 0
    rows = [row for row in in_view(page, "accuracy-facts") if row["kind"] == "point"]
    found = sorted((row["hue"], row["layers_dropped"], row["value"]) for row in rows)
    assert len(found) == len(study.made)
    wanted = [point.scores[0].measures["acc"].value for point in study.made]
    assert sorted(value for *_, value in found) == pytest.approx(sorted(wanted), abs=0)
    assert EVIL in page.inner_text("h1")


def test_a_model_that_is_switched_off_leaves_every_figure(visit):
    page = visit()
    before = curves_of(in_view(page, "accuracy-facts"))
    assert any(curve.startswith("tiny") for curve in before)
    page.get_by_role("checkbox", name="tiny").focus()
    page.keyboard.press("Space")
    page.wait_for_timeout(50)
    see_all(page)
    for figure in ("accuracy-facts", "loss", "subjects-facts"):
        rows = in_view(page, figure)
        assert curves_of(rows) == {curve for curve in before if not curve.startswith("tiny")}
        assert [row["model"] for row in rows if row["kind"] == "dense"] != []
        assert all(row["model"] == EVIL for row in rows if row["kind"] == "dense")
    assert {row["model"] for row in in_view(page, "layers")} == {EVIL}
    legend = page.locator('[data-spec="spec-loss"] .role-legend').all_text_contents()
    assert EVIL in "".join(legend)
    assert "tiny" not in "".join(legend)
    assert page.locator("output").inner_text() == "3 of 6 curves"
    page.get_by_role("checkbox", name="not healed").uncheck(force=True)
    see_all(page)
    assert curves_of(in_view(page, "loss")) == {f"{EVIL} · block · lora"}
    page.get_by_role("button", name="All", exact=True).click()
    page.wait_for_timeout(50)
    see_all(page)
    assert curves_of(in_view(page, "accuracy-facts")) == before


def test_what_is_all_switched_off_says_so(visit):
    page = visit()
    for name in ("block", "deepest"):
        page.get_by_role("checkbox", name=name).uncheck(force=True)
    see_all(page)
    card = page.locator('[data-spec="spec-accuracy-facts"]')
    assert card.locator(".nothing").is_visible()
    assert not card.locator(".chart").is_visible()


def test_a_point_tells_its_numbers(visit, study):
    page = visit()
    card = page.locator('[data-spec="spec-accuracy-facts"]')
    card.scroll_into_view_if_needed()
    card.locator(".mark-symbol.role-mark path").last.hover(force=True)
    tooltip = page.locator("#vg-tooltip-element")
    tooltip.wait_for(state="visible")
    text = tooltip.inner_text()
    assert "layers removed" in text
    assert any(f"{point.scores[0].measures['acc'].value:.4f}" in text for point in study.made)


def test_an_entry_of_the_legend_picks_its_curves(visit):
    page = visit()
    card = page.locator('[data-spec="spec-accuracy-facts"]')
    card.scroll_into_view_if_needed()
    faint = '.mark-symbol.role-mark path[fill-opacity="0.08"]'
    assert card.locator(faint).count() == 0
    card.get_by_text("tiny", exact=True).click(force=True)
    page.wait_for_timeout(100)
    assert card.locator(faint).count() == 16  # of the other model


def test_tables_are_sorted_by_a_click_or_a_key(visit):
    page = visit()
    table = page.locator("#numbers table").first
    name = "facts %"
    column = table.locator("thead tr").last.locator("th").all_inner_texts().index(name)

    def values():
        texts = table.locator(f"tbody tr td:nth-child({column + 1})").all_inner_texts()
        return [float(text.split(" ±")[0]) for text in texts if text]

    head = table.locator("thead tr").last.locator("th").nth(column)
    first = values()
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert values() == sorted(first)
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert values() == sorted(first, reverse=True)
    count = table.locator("thead tr").last.locator("th").nth(1)
    count.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") is None
    numbers = [int(text) for text in table.locator("tbody tr td:nth-child(2)").all_inner_texts()]
    assert numbers == sorted(numbers)


def test_cells_are_sorted_by_their_first_number(visit):
    cells = {
        "25.3 [24.9, 25.7]": 25.3, ">50.0 [41.7, ...]": 50, "3.1 ± 0.2": 3.1, "5.0 → 4.2": 4.2,
        "23.3% (7 layers)": 23.3, "16.4k": 16_400, "1,247": 1247, "-2": -2, "3, 11-19": None,
        "undefined": None, "": None,
    }  # fmt: skip
    page = visit()
    found = {text: page.evaluate("(text) => numberOf(text)", text) for text in cells}
    assert found == cells


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_fits_every_screen(visit, viewport, scheme, tmp_path):
    page = visit(viewport, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    # Each figure within its card, too.
    for card in page.locator("[data-spec]").all():
        width = card.evaluate("(card) => card.scrollWidth - card.clientWidth")
        assert width <= 0, card.get_attribute("data-spec")
    text = page.locator(".chart text").first.evaluate("(text) => getComputedStyle(text).fill")
    light = sum(int(part) for part in text.strip("rgb()").split(",")) > 3 * 128
    assert light == (scheme == "dark")
    path = tmp_path / "page.png"
    page.screenshot(path=path, full_page=True)
    assert path.stat().st_size > 50_000


def test_one_curve_has_no_controls(browser, tmp_path):
    maker = Maker(tmp_path / "study")
    maker.curve()
    draw(maker.study)
    page = browser.new_page()
    page.goto((maker.study / "report.html").resolve().as_uri())
    assert page.locator("#controls").count() == 0
    assert page.locator("input").count() == 0
    page.close()
