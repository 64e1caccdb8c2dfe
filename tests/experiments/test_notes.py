"""Lab notes: what is written from studies, what stays, and that those which are here are true."""

from functools import cache
from pathlib import Path

import pytest
from PIL import Image
from scripts import script
from studies import Maker, make_profile

from layerprune.prune.target import targets
from layerprune.record.store import Store

sweep = cache(script("notes").compose_sweep)  # seconds each

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
LAYERS = 30
LARGEST = 150_000
"""Bytes of a picture."""


@pytest.fixture(scope="module")
def notes():
    """The script that writes notes; experiments are no package."""
    return script("notes")


@pytest.fixture
def written(notes, tmp_path, monkeypatch):
    """Writes notes into a folder of the test's own, from studies beside it."""
    index = tmp_path / "experiments" / "README.md"
    index.parent.mkdir()
    monkeypatch.setattr(notes.tables, "INDEX", index)
    monkeypatch.setattr(notes, "compose_sweep", sweep)

    def write(*names):
        notes.main([*names, "--outputs", str(tmp_path)])
        return index.parent

    return write


def make(name, outputs, but=()):
    """The points of a preset, made up; none of the strategies in `but`."""
    maker = None
    for at, job in enumerate(sweep(name)):
        maker = maker or Maker(outputs / job.study)
        if job.prune.strategy in but:
            continue
        for target in targets(job.prune, LAYERS)[0]:
            last = LAYERS - 1 if job.prune.strategy == "deepest" else LAYERS - 2
            maker.point(
                range(last - target.count, last),
                model=job.model.name,
                strategy=job.prune.strategy,
                heal=job.heal.recipe,
                seed=job.seed,
                num_layers=LAYERS,
                tasks=job.eval.tasks,
                speed=bool(job.eval.speed.rounds),
                write=False,
            )
            key = f"{job.metric.name}{job.data.calibration_sequences}"
            few = {"num_fewshot": job.eval.num_fewshot, "fewshot_seed": job.eval.fewshot_seed}
            with maker.editing() as content:
                content["plan"] |= {"metric": job.metric.name, "profile": key}
                identity = content["identity"]
                identity["metric"] = job.metric.name
                identity["eval"] |= {name: of for name, of in few.items() if of is not None}
                identity["job"] = at  # in what else the preset's jobs differ
                content["costs"]["seconds"]["questions"] = 100.0
            Store(maker.study).write(maker.made[-1])
            profile = make_profile(LAYERS, key, job.metric.name)
            Store(maker.study).write_distances(profile)
    return maker


def cells(note, start):
    """The rows of a note's tables that begin so."""
    lines = [line for line in note.read_text().splitlines() if line.startswith(f"| {start}")]
    return [line.strip("| ").split(" | ") for line in lines]


def test_presets_of_one_study_show_the_points_that_they_are_about(written, tmp_path):
    make("fig5", tmp_path)
    folder = written("fig1", "fig3", "fig5")
    assert [row[0] for row in cells(folder / "fig1.md", "")] == [
        "accuracy %", ":--", "block · not healed", "block · lora",
        "held-out loss / ln V", ":--", "block · not healed", "block · lora",
    ]  # fmt: skip
    assert not cells(folder / "fig3.md", "accuracy")
    rows = {row[0] for row in cells(folder / "fig5.md", "")}
    assert {"block · not healed", "deepest · lora"} <= rows
    assert len(cells(folder / "fig1.md", "accuracy")[0]) == 1 + 7
    assert "14, which took" in (folder / "fig1.md").read_text()
    assert "28, which took" in (folder / "fig5.md").read_text()
    assert {path.name for path in (folder / "fig1").iterdir()} == {
        "accuracy.png", "loss.png", "nearest.png",
    }  # fmt: skip


def test_a_study_that_is_not_whole_is_named_and_its_note_stays(written, tmp_path, capsys):
    make("fig5", tmp_path, but=["deepest"])
    folder = written("fig1", "fig4", "fig5")
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("fig1.md is written from ")
    assert said[1].startswith("fig4.md stays as it is: ")
    assert said[1].endswith("is not a folder: name the folder of a study, outputs/STUDY.")
    assert said[2].startswith("fig5.md stays as it is: ")
    assert said[2].endswith("mini has 14 of the 28 points of experiment=fig5.")
    assert [path.name for path in sorted(folder.glob("*.md"))] == ["README.md", "fig1.md"]


def test_findings_stay_and_everything_else_is_rewritten(notes, written, tmp_path):
    make("fig6", tmp_path)
    folder = written("fig6")
    note = folder / "fig6.md"
    first = note.read_text()
    assert first.startswith(
        "# fig6: do yes/no questions degrade like multiple choice?\n\n"
        f"**Result.** {notes.NOT_YET}\n\n{notes.tables.FIGURES}\n\n![Accuracy"
    )
    assert "<details>" in first
    assert "    python main.py experiment=fig6\n\n- source: Gromov" in first
    assert f"commit: {'0' * 40}" in first
    (folder / "fig6" / "old.png").write_bytes(b"")
    mark = notes.tables.MEASURED_HOW
    words = first.replace(notes.NOT_YET, "All at chance.").replace(mark, f"- n = 8.\n\n{mark}")
    note.write_text(words.replace("# fig6", "# other").replace("- source: ", "- model: "))
    written("fig6")
    assert note.read_text() == words
    assert [path.name for path in (folder / "fig6").iterdir()] == ["accuracy.png"]


def test_a_note_without_its_marks_stays(notes, written, tmp_path, capsys):
    make("fig6", tmp_path)
    note = tmp_path / "experiments" / "fig6.md"
    marks = notes.tables.FIGURES, notes.tables.END, notes.tables.MEASURED_HOW
    for text, lost in zip(("by hand", marks[0], "".join(marks[:2])), marks, strict=True):
        note.write_text(text)
        written("fig6")
        assert capsys.readouterr().out == f"fig6.md stays as it is: it has no {lost}.\n"
        assert note.read_text() == text


def test_the_index_shows_the_first_figure_of_each_note(written, tmp_path):
    make("fig6", tmp_path)
    folder = written("fig6")
    lines = (folder / "README.md").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("| `fig6`"))
    assert line.endswith('| [<img src="fig6/accuracy.png" width="160" alt="fig6">](fig6.md) |')
    (line,) = (line for line in lines if line.startswith("| `fig7`"))
    assert line.endswith("|  |")


def test_no_preset_of_the_embedded_model_is_without_a_note(notes):
    small = {name for name in notes.tables.presets() if not name.endswith(notes.tables.PAPER)}
    assert set(notes.VIEWS) | set(notes.tables.BY_HAND) == small


PRESETS = {
    "fig4": ["distances.png", "nearest.png"],
    "fig7": ["accuracy.png"],
    "fig7_order": ["accuracy.png"],
    "fig8": ["accuracy.png", "loss.png"],
    "metrics": ["accuracy.png", "layers.png"],
    "strategies": ["accuracy.png", "layers.png", "loss.png"],
    "calibration": ["accuracy.png", "layers.png"],
    "speed": ["speed.png"],
    "training_cost": ["cost.png"],
    "v2": ["accuracy-facts_capitals.png", "accuracy-facts_written.png"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_every_note_has_pictures_and_a_table(notes, written, tmp_path, name):
    make(name, tmp_path)
    folder = written(name)
    paths = sorted((folder / name).iterdir())
    assert [path.name for path in paths] == PRESETS[name]
    assert all(path.stat().st_size <= LARGEST for path in paths)
    text = (folder / f"{name}.md").read_text()
    assert len([line for line in text.splitlines() if line.startswith("|")]) > 3
    assert all(f"({name}/{path.name})" in text for path in paths)


def test_notes_that_are_here_are_whole(notes):
    for name in notes.VIEWS:
        note = notes.tables.note_of(name)
        if not note.is_file():
            continue
        text = note.read_text(encoding="utf-8")
        assert text == notes.tables.headed(name, text), f"{name}: make tables"
        assert notes.NOT_YET not in text, f"{name}: what was found?"
        for path in note.with_suffix("").glob("*.png"):
            assert f"({name}/{path.name})" in text
            assert path.stat().st_size <= LARGEST
            with Image.open(path) as image:
                image.verify()


def test_each_table_of_a_note_is_beside_it_as_csv():
    tables = script("note_tables")
    for note in set(EXPERIMENTS.glob("*.md")) - {EXPERIMENTS / "README.md"}:
        expected = dict(tables.note_tables(note.read_text(encoding="utf-8")))
        found = {path.name: path.read_text() for path in note.with_suffix("").glob("*.csv")}
        assert found == expected, f"{note.name}: run tools/note_tables.py"


def test_a_table_becomes_csv_without_the_marks_of_markdown():
    tables = script("note_tables")
    note = "# n\n| a b | c\\_d |\n|:--|--:|\n| **1** | x, \\[2] |\n\n## More\n| n |\n|--:|\n| 3 |\n"
    assert dict(tables.note_tables(note)) == {
        "a_b.csv": 'a b,c_d\n1,"x, [2]"\n',
        "more.csv": "n\n3\n",
    }
