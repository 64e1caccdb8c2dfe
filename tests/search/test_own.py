"""The commands of docs/fit.md for your own questions and text work as they are printed."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from layerprune.config.compose import compose
from layerprune.record.store import Store
from layerprune.search.fit import run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def commands():
    """The commands, with continued lines joined."""
    _, _, rest = (ROOT / "docs/fit.md").read_text().partition("## Use your own questions and text")
    lines = re.search(r"\n\n((?:    .*\n)+)", rest)[1].replace("\\\n", " ")
    return [line.strip() for line in lines.splitlines()]


def test_a_search_on_questions_and_text_of_ones_own(commands, tiny_folder, tmp_path, monkeypatch):
    for name in ("README.md", "docs", "experiments"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    *before, command = commands
    assert len(commands) <= 5
    for line in before:
        subprocess.run(line, shell=True, check=True)
    python, main, *overrides = shlex.split(command)
    assert (python, main) == (".venv/bin/python", "main.py")
    assert "fit.keep=0.8" in overrides
    assert "export=hf" in overrides
    # A tiny model knows nothing that could be kept: it is asked all the same.
    overrides = [each for each in overrides if not each.startswith(("fit.keep", "experiment"))]
    fitted = run(
        compose(*overrides, "model=custom", f"model.path={tiny_folder}", "fit.memory=1GiB",
                "tracker=disabled", "data.calibration_sequences=4")
    )  # fmt: skip
    (score,) = fitted.point.scores
    assert score.task == "quiz"
    assert score.num_samples == len((tmp_path / "mine" / "quiz.jsonl").read_text().splitlines())
    assert fitted.same == (score.num_samples, score.num_samples) or fitted.same[1] >= 40
    points = Store(tmp_path / "outputs" / "smallest").points()[0]
    assert len(points) == 8
    assert {point.config["data"]["files"][0] for point in points} == {"mine/text.txt"}
