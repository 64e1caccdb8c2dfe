"""Commands in the documents: run here, as far as it goes without GPUs and a hub."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from studies import Maker

from layerprune import app
from layerprune.report.__main__ import main as report

ROOT = Path(__file__).parent.parent

PAGES = (ROOT / "README.md", ROOT / "experiments" / "README.md", *(ROOT / "docs").glob("*.md"))

ELSEWHERE = {
    "lm_eval": "test_export_embedded.py",
    "from transformers import pipeline": "test_export_embedded.py",
    "big_models.md": "test_big_models.py",
}
"""What other tests run, by a part of the command."""


def commands():
    """Each command in an indented block, in one line, without the prose beside it."""
    found = {}
    for page in PAGES:
        text = re.sub(r" *\\\n +", " ", page.read_text())
        for line in re.findall(r"^ {4,6}(\S.*)$", text, re.MULTILINE):
            command = re.split(r"  +# |  +(?=[a-z ]+$)|   +(?=[a-z])| +# ", line)[0]
            if re.match(r"(\.venv/bin/)?(python|torchrun|layerprune|lm_eval|make|pip) ", command):
                found[f"{page.relative_to(ROOT)}: {command}"] = command
    return found


COMMANDS = commands()

RUNS = [
    name
    for name, command in COMMANDS.items()
    if "main.py" in command and "NAME" not in command and "big_models.md" not in name
]

NOT_HERE = {
    "model.path=Qwen/Qwen3-0.6B": "nor to be had from the hub",
    "launcher=ray": "pip install 'layerprune[ray]'",
}
"""What a command needs that may be missing, and what is said then."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as the documents have it, with studies, and questions and text of one's own."""
    folder = tmp_path_factory.mktemp("place")
    for study in ("demo", "A", "B", "STUDY"):
        Maker(folder / "outputs" / study).curve()
    shutil.copytree(ROOT / "experiments" / "own", folder / "mine")
    shutil.copytree(ROOT / "experiments" / "own", folder / "metals")
    task = (folder / "metals" / "quiz.yaml").read_text()
    (folder / "metals" / "quiz.yaml").write_text(task.replace("task: quiz", "task: metals"))
    (folder / "mine" / "text.txt").write_text((ROOT / "README.md").read_text())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_can_be_planned(name, place, monkeypatch, capsys):
    arguments = shlex.split(COMMANDS[name])
    overrides = arguments[arguments.index("main.py") + 1 :]
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["main.py", *overrides, "dry_run=true"])
    before = set(place.rglob("record.json"))
    try:
        app.main()
        status = 0
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr()
    missing = [why for part, why in NOT_HERE.items() if part in COMMANDS[name]]
    if missing and status == 2:
        assert missing[0] in said.err
    else:
        assert status == 0, said.err
        assert re.search(r"\d+ points?, \d+ to do", said.out)
    assert set(place.rglob("record.json")) == before


def test_a_report_is_drawn(place, monkeypatch):
    monkeypatch.chdir(place)
    drawn = [name for name in COMMANDS if "-m layerprune.report" in name and "STUDY" not in name]
    assert len(drawn) >= 4
    for name in drawn:
        arguments = shlex.split(COMMANDS[name])
        assert report(arguments[arguments.index("layerprune.report") + 1 :]) == 0
    assert (place / "outputs" / "BOTH" / "report.html").is_file()


def test_make_has_what_is_asked_of_it():
    makefile = (ROOT / "Makefile").read_text()
    known = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    pages = "\n".join(page.read_text() for page in PAGES)
    asked = set(re.findall(r"(?:`|^    )make ([a-z][a-z-]*)", pages, re.MULTILINE))
    assert len(asked) > 8
    assert asked <= known
    assert known - asked <= {"help", "setup", "clean", "pins", "lint", "audit", "coverage"}


def test_extras_that_are_named_are_there():
    project = (ROOT / "pyproject.toml").read_text()
    for page in PAGES:
        for extra in re.findall(r"'layerprune\[(\w+)\]'", page.read_text()):
            assert f"\n{extra} = [" in project


def test_no_command_is_forgotten():
    """Each is one of the above, run by another test, or a form with a name to be filled in."""
    for name, command in COMMANDS.items():
        run = name in RUNS or "make " in command or "pip install" in command
        other = any(part in name for part in ("layerprune.report", *ELSEWHERE))
        form = re.search(r"\b(NAME|STUDY|FOLDER)(\b|_)", command)
        assert run or other or form, name
    for part, file in ELSEWHERE.items():
        assert part in (ROOT / "tests" / file).read_text(), part


def test_what_stands_in_a_line_is_there():
    for page in PAGES:
        text = page.read_text()
        for name in re.findall(r"`[^`\n]*experiment=([a-z0-9_]+)[^`\n]*`", text):
            assert (ROOT / "conf" / "experiment" / f"{name}.yaml").is_file(), f"{page.name}: {name}"
        for script in re.findall(r"`[^`\n]*(experiments/\w+\.py)[^`\n]*`", text):
            assert (ROOT / script).is_file(), f"{page.name}: {script}"


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.name}: {link}"
