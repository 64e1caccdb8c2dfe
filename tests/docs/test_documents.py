"""Commands in the documents: run here, as far as it goes without GPUs and a hub."""

import json
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from studies import Maker

from layerprune import cli
from layerprune.report.__main__ import main as report

ROOT = Path(__file__).parents[2]

PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ROOT / "experiments" / "README.md",
    *(ROOT / "docs").glob("*.md"),
)
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
NOTES = [page for page in (ROOT / "experiments").glob("*.md") if page not in PAGES]

ELSEWHERE = {
    "lm_eval": "export/test_export_embedded.py",
    "from transformers import pipeline": "export/test_export_embedded.py",
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
    "model=Qwen/Qwen3-0.6B": "cannot be downloaded from the hub",
    "model=Qwen/Qwen2.5-0.5B": "cannot be downloaded from the hub",
    "launcher=ray": "pip install 'layerprune[ray]'",
}
"""What a command needs that may be missing, and the message then."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as the documents have it, with studies, and questions and text of one's own."""
    folder = tmp_path_factory.mktemp("place")
    for study in ("qwen", "A", "B", "STUDY"):
        maker = Maker(folder / "outputs" / study)
        maker.curve()
        maker.curve(counts=(2, 4), heal="lora")
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
        cli.main()
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


def test_make_has_every_target_that_the_documents_name():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    pages = "\n".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"(?:`|^    )make ([a-z][a-z-]*)", pages, re.MULTILINE))
    assert named
    assert named <= targets


def test_extras_that_are_named_are_there():
    project = (ROOT / "pyproject.toml").read_text()
    for page in PAGES:
        for extra in re.findall(r"'layerprune\[(\w+)\]'", page.read_text()):
            assert f"\n{extra} = [" in project


def test_version_is_the_same_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## (\S+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert newest[1] == citation["version"] == version
    assert newest[2] == str(citation["date-released"])
    assert f"version = {{{version}}}" in (ROOT / "README.md").read_text()


def test_no_command_is_forgotten():
    """Each is one of the above, run by another test, or a form with a name to be filled in."""
    for name, command in COMMANDS.items():
        run = name in RUNS or "make " in command or "pip " in command
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
        for script in re.findall(r"`[^`\n]*((?:experiments|tools)/\w+\.py)[^`\n]*`", text):
            assert (ROOT / script).is_file(), f"{page.name}: {script}"


def without_code(page):
    text = page.read_text()
    if page.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    text = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^ {4,}.*$", "", text, flags=re.MULTILINE)


def anchors(page):
    """The names that GitHub gives to the headings of a page, and those given in HTML."""
    names = re.findall(r"<a (?:id|name)=\"([^\"]+)\"", page.read_text())
    for heading in re.findall(r"^#+ +(.+?) *$", without_code(page), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        times = names.count(name)
        names.append(f"{name}-{times}" if times else name)
    return names


def test_anchors_are_named_as_on_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `--plan`, *read*: [it](x.md)!\n\n    # no heading\n\n## Again\n\n## Again\n"
    )
    assert anchors(page) == ["a---plan-read-it", "again", "again-1"]


@pytest.mark.parametrize("page", [*PAGES, *NOTES, NOTEBOOK], ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    text = without_code(page)
    links = re.findall(r"\]\(([^)\s]+)\)|<(?:img src|a href)=\"([^\"]+)\"", text)
    for link in ("".join(found) for found in links):
        if link.startswith(("http", "../../actions/")):  # GitHub's own pages
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link
