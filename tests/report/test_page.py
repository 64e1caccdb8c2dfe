import csv
import json
from html.parser import HTMLParser

import pytest

from layerprune.analysis.curves import make_curves
from layerprune.record.point import HELDOUT
from layerprune.report import draw
from layerprune.report.figures.figure import columnar
from layerprune.report.page import choices, script_json

EVIL = "<script>alert(1)</script>"


class Reader(HTMLParser):
    """What a browser would make of a page: its elements, texts and embedded specifications."""

    def __init__(self):
        super().__init__()
        self.elements = []
        self.embedded = {}
        self.text = ""
        self._inside = None

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = self.elements[-1] if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside is None:
            self.text += data
        elif self._inside[1].get("type") == "application/json":
            self.embedded[self._inside[1]["id"]] = json.loads(data)

    @property
    def specs(self):
        """The specifications, each with its data back where Vega-Lite expects them."""
        return {
            name: {**spec, "data": {"values": unpacked(self.embedded[f"{name}-data"])}}
            for name, spec in self.embedded.items()
            if f"{name}-data" in self.embedded
        }


def unpacked(packed):
    rows = [{} for _ in range(packed["length"])]
    for name, column in packed["columns"].items():
        for at, row in enumerate(rows):
            place = column["at"][at] if "at" in column else at
            if place >= 0:
                row[name] = column["values"][place]
    return rows


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def data_of(spec):
    return spec["data"]["values"]


@pytest.fixture
def page(drawn):
    return read(drawn.study / "report.html")


def test_the_curves_of_the_page_are_those_of_the_records(drawn, page):
    points = {(point.plan.strategy, point.num_dropped): point for point in drawn.made}
    found = [row for row in data_of(page.specs["spec-accuracy-facts"]) if row["kind"] == "point"]
    assert len(found) == len(points)
    for row in found:
        point = points[row["curve"], row["layers_dropped"]]
        acc = point.scores[0].measures["acc"]
        assert (row["value"], row["stderr"]) == (acc.value, acc.stderr)
        assert (row["low"], row["high"]) == (acc.value - acc.stderr, acc.value + acc.stderr)
        assert row["fraction"] == point.plan.fraction
        assert row["num_samples"] == point.scores[0].num_samples
    for row in data_of(page.specs["spec-loss"]):
        if row["kind"] == "point":
            assert row["task"] == HELDOUT
            point = points[row["curve"], row["layers_dropped"]]
            assert row["value"] == point.loss.normalised
    subjects = [r for r in data_of(page.specs["spec-subjects-facts"]) if r["kind"] == "point"]
    assert {
        (row["curve"], row["layers_dropped"], row["task"], row["value"]) for row in subjects
    } == {
        (*key, score.task, score.measures["acc"].value)
        for key, point in points.items()
        for score in point.scores
        if score.parent == "facts"
    }


def test_dense_and_chance_lines_are_there_once(page):
    data = data_of(page.specs["spec-accuracy-facts"])
    lines = {row["kind"]: row for row in data if row["kind"] != "point"}
    assert len([row for row in data if row["kind"] != "point"]) == 2
    assert lines["chance"]["value"] == 0.25
    dense = [row for row in data if row["kind"] == "point" and row["layers_dropped"] == 0]
    assert lines["dense"]["value"] == dense[0]["value"]


def test_every_picture_has_its_numbers_in_words(drawn, page):
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(pictures) == 7
    assert all(picture["src"].startswith("data:image/svg+xml;base64,") for picture in pictures)
    for point in drawn.made:
        acc = point.scores[0].measures["acc"].value
        said = f"{point.plan.strategy}, {point.num_dropped} layers removed: {acc:.1%}"
        assert said in pictures[0]["alt"]
    assert "dense model" in pictures[0]["alt"]
    assert "n=2: 0." in pictures[4]["alt"]
    assert "n=2: l*=" in pictures[5]["alt"]


def test_the_page_needs_nothing_from_outside(page):
    for tag, attributes in page.elements:
        assert tag != "iframe"
        for name in ("src", "href"):
            target = attributes.get(name, "#")
            assert target.startswith(("#", "data:")), (tag, target)
        assert tag != "script" or "src" not in attributes


def test_the_page_says_with_what_it_was_made(page):
    for said in (
        "experiment=demo prune=block,deepest",
        "40 questions",
        "weights of tiny",
        "0123456789ab",
        "4 sequences",
        "torch 2.13.0",
    ):
        assert said in page.text


def test_names_are_text_wherever_they_stand(maker):
    maker.curve(model=EVIL, tasks=("facts", EVIL), subjects=("a", "</script><b>"))
    maker.curve(model="tiny")
    with maker.editing() as content:
        content["provenance"]["arguments"].append(EVIL)
    maker.point([3], model=EVIL, strategy=EVIL, heal=EVIL, tasks=(EVIL,))
    maker.profile()
    report = draw(maker.study)
    html = (maker.study / "report.html").read_text(encoding="utf-8")
    assert EVIL not in html
    page = read(maker.study / "report.html")
    # The page's own: data of all figures and of each, the library and the drawing.
    assert len([tag for tag, _ in page.elements if tag == "script"]) == len(page.embedded) + 2
    assert len(page.embedded) == 2 * len(page.specs) + 3
    assert not [tag for tag, _ in page.elements if tag == "b"]
    assert EVIL in page.text
    hues = {row.get("hue") for row in data_of(page.specs["spec-loss"])}
    assert EVIL in hues
    for path in report.written:
        assert path.resolve().is_relative_to(maker.study.resolve())
        if path.suffix == ".svg":
            assert "<script" not in path.read_text(encoding="utf-8")


def test_drawing_again_gives_the_same_bytes(drawn):
    names = ["curves.csv", "curves.parquet", "critical.csv", "critical.md", "critical.tex"]
    paths = [drawn.study / name for name in (*names, "report.html")]
    before = [path.read_bytes() for path in paths]
    report = draw(drawn.study)
    assert [path.read_bytes() for path in paths] == before
    assert set(paths) < set(report.written)
    there = {path for path in drawn.study.rglob("*.*") if path.suffix != ".json"}
    assert there == set(report.written)


def test_data_that_are_packed_come_back_as_they_were():
    data = [
        {"kind": "point", "value": 1.0, "joined": True, "stderr": None},
        {"kind": "point", "value": 1, "joined": 1, "stderr": 0.0},
        {"kind": "point", "value": -0.1 + 0.3, "joined": False, "stderr": 0},
        {"kind": "dense", "label": "</script>", "value": 1.0},
        {},
    ]
    again = unpacked(json.loads(script_json(columnar(data))))
    assert again == data
    assert [[type(value) for value in row.values()] for row in again] == [
        [type(row[name]) for name in other] for row, other in zip(data, again, strict=True)
    ]
    assert columnar([]) == {"length": 0, "columns": {}}


def test_each_figure_has_its_numbers_as_csv(drawn, page):
    html = (drawn.study / "report.html").read_text(encoding="utf-8")
    for name, spec in page.specs.items():
        path = drawn.study / "figures" / f"{name.removeprefix('spec-')}.csv"
        assert f"<code>figures/{path.name}, .svg and .png</code>" in html
        data = data_of(spec)
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(data) > 0
        for row, datum in zip(rows, data, strict=True):
            said = {key: "" if value is None else str(value) for key, value in datum.items()}
            assert row == {key: said.get(key, "") for key in row}
            assert set(said) <= set(row)


def test_boxes_are_there_for_what_varies_alone(maker):
    maker.curve()
    assert choices(make_curves(maker.made)) == {}
    maker.curve("deepest", seed=3)
    assert choices(make_curves(maker.made)) == {
        "strategy": ["block", "deepest"], "seed": ["0", "3"],
    }  # fmt: skip
    draw(maker.study)
    boxes = [
        attributes["name"]
        for tag, attributes in read(maker.study / "report.html").elements
        if tag == "input"
    ]
    assert boxes == ["strategy", "strategy", "seed", "seed"]


def test_headings_tables_and_landmarks_are_named(drawn, page):
    assert [tag for tag, _ in page.elements].count("h1") == 1
    tables = [at for at, (tag, _) in enumerate(page.elements) if tag == "table"]
    assert tables
    assert all(page.elements[at + 1][0] == "caption" for at in tables)
    assert ("html", {"lang": "en"}) in page.elements
    assert ("a", {"class": "skip", "href": "#content"}) in page.elements
    for tag, attributes in page.elements:
        assert tag not in ("nav", "form") or attributes["aria-label"]
        assert tag != "th" or attributes["scope"] in ("col", "colgroup")
