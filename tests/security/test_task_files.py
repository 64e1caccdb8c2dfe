"""Task files from elsewhere are data: code that they name runs only where the user said so."""

import pytest

from layerprune.config.schema import EvalConfig
from layerprune.errors import UserError
from layerprune.evaluate.eval_tasks import EvalTasks

TASK = """
task: mine
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
"""

ROWS = '{"question": "q", "choices": ["a", "b"], "answer": 0}\n'

CODE = """
open({ran!r}, "w").write("ran")
def call(*_, **__):
    return "x"
"""

ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() | length }}"

WITH_CODE = {
    "a function": ("doc_to_choice: choices", "doc_to_choice: !function code.call"),
    "a module of Python's": ("doc_to_choice: choices", "doc_to_choice: !function os.getcwd"),
    "data": ("dataset_path: json", "custom_dataset: !function code.call"),
    "a measure": ("- metric: acc", "- metric: !function code.call"),
    "a measure of the hub": ("- metric: acc", "- metric: exact_match\n    hf_evaluate: true"),
    "an unknown measure": ("- metric: acc", "- metric: ./measure"),
    "a class": ("task: mine", "task: mine\nclass: !function code.call"),
    "what it includes": ("task: mine", "task: mine\ninclude: included.yaml"),
}


@pytest.fixture
def folder(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(ROWS)
    (tmp_path / "mine.yaml").write_text(TASK.format(rows=rows))
    code = CODE.format(ran=str(tmp_path / "ran"))
    (tmp_path / "code.py").write_text(code)
    (tmp_path / "included.yaml").write_text("process_docs: !function code.call\n")
    (tmp_path / "measure").mkdir()
    (tmp_path / "measure" / "measure.py").write_text(code)
    return tmp_path


def changed(folder, old, new):
    text = (folder / "mine.yaml").read_text()
    assert old in text
    (folder / "mine.yaml").write_text(text.replace(old, new))


def questions(folder, **settings):
    return EvalTasks(EvalConfig(tasks=["mine"], include_path=str(folder), **settings))


def test_task_files_without_code_need_no_trust(folder):
    assert questions(folder).solved_examples()


@pytest.mark.parametrize("how", WITH_CODE)
def test_code_of_task_files_runs_only_where_it_is_trusted(folder, how, monkeypatch):
    monkeypatch.chdir(folder)
    changed(folder, *WITH_CODE[how])
    with pytest.raises(UserError, match=r"Read it first; eval\.trust_task_code=true runs it"):
        questions(folder).load()
    assert not (folder / "ran").exists()


def test_trusted_code_runs_and_is_said(folder, capsys):
    changed(folder, *WITH_CODE["what it includes"])
    with pytest.raises(UserError, match="cannot be loaded"):  # it gives no rows
        questions(folder, trust_task_code=True).load()
    assert (folder / "ran").read_text() == "ran"
    assert "It has all your permissions" in capsys.readouterr().err


@pytest.mark.parametrize("trusted", [False, True])
def test_templates_do_not_reach_beyond_their_question(folder, trusted):
    changed(folder, '"{{question}}"', f'"{ESCAPE}"')
    with pytest.raises(UserError, match="__class__"):
        questions(folder, trust_task_code=trusted).solved_examples()
