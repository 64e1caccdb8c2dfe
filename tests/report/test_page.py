import json
from html.parser import HTMLParser

import pytest

from layerprune.record.point import HELDOUT
from layerprune.report import draw

EVIL = "<script>alert(1)</script>"


class Reader(HTMLParser):
    """What a browser would make of a page: its elements, texts and embedded specifications."""

    def __init__(self):
        super().__init__()
        self.elements = []
        self.specs = {}
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
            self.specs[self._inside[1]["id"]] = json.loads(data)


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
    points = {(point.plan["strategy"], point.num_dropped): point for point in drawn.made}
    found = [row for row in data_of(page.specs["spec-accuracy-facts"]) if row["kind"] == "point"]
    assert len(found) == len(points)
    for row in found:
        point = points[row["curve"], row["layers_dropped"]]
        acc = point.scores[0]["measures"]["acc"]
        assert (row["value"], row["stderr"]) == (acc["value"], acc["stderr"])
        assert (row["low"], row["high"]) == (
            acc["value"] - acc["stderr"],
            acc["value"] + acc["stderr"],
        )
        assert row["fraction"] == point.plan["fraction"]
        assert row["num_samples"] == point.scores[0]["num_samples"]
    for row in data_of(page.specs["spec-loss"]):
        if row["kind"] == "point":
            assert row["task"] == HELDOUT
            point = points[row["curve"], row["layers_dropped"]]
            assert row["value"] == point.loss["normalised"]
    subjects = [r for r in data_of(page.specs["spec-subjects-facts"]) if r["kind"] == "point"]
    assert {
        (row["curve"], row["layers_dropped"], row["task"], row["value"]) for row in subjects
    } == {
        (*key, score["task"], score["measures"]["acc"]["value"])
        for key, point in points.items()
        for score in point.scores
        if score["parent"] == "facts"
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
    assert len(pictures) == 5
    assert all(picture["src"].startswith("data:image/svg+xml;base64,") for picture in pictures)
    for point in drawn.made:
        acc = point.scores[0]["measures"]["acc"]["value"]
        said = f"{point.plan['strategy']}, {point.num_dropped} layers dropped: {acc:.1%}"
        assert said in pictures[0]["alt"]
    assert "dense model" in pictures[0]["alt"]
    assert "n=2: l*=" in pictures[3]["alt"]


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
    maker.made[-1].provenance["arguments"].append(EVIL)
    maker.point([3], model=EVIL, strategy=EVIL, heal=EVIL, tasks=(EVIL,))
    maker.profile()
    report = draw(maker.study)
    html = (maker.study / "report.html").read_text(encoding="utf-8")
    assert EVIL not in html
    page = read(maker.study / "report.html")
    # The page's own: one for each figure, the library and the drawing.
    assert len([tag for tag, _ in page.elements if tag == "script"]) == len(page.specs) + 2
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
