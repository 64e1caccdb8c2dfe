"""What cannot be asked is named by task and row, before any model is loaded."""

import json

import pytest
from tiny import byte_tokenizer

from layerprune.config.schema import EvalConfig
from layerprune.errors import UserError
from layerprune.evaluate.eval_tasks import EvalTasks

ROW = {"question": "After a comes", "options": ["b", "x", "y"], "answer": 0}
TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: options
doc_to_target: answer
metric_list:
  - metric: acc
"""


def task(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "odd.yaml").write_text(TASK.format(name="odd", rows=path))
    return EvalTasks(EvalConfig(tasks=["odd"], include_path=str(folder), trust_task_code=True))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "cannot be loaded: a data file of the task has no rows|odd has no questions"),
        ([ROW, ROW | {"options": ["", "x", "y"]}], r"row 1 of odd has the option ''"),
        ([ROW | {"options": [1, 2, 3]}], "each option must be text"),
        ([ROW | {"options": ["", "x", "y"]}], "each option must be text|has the option ''"),
        ([ROW, ROW | {"options": []}], "row 1 of odd has the option None"),
    ],
)
def test_rows_that_cannot_be_asked(tmp_path, rows, reason):
    with pytest.raises(UserError, match=reason):
        task(tmp_path, rows).load()


def test_a_group_without_tasks(tmp_path):
    (tmp_path / "empty.yaml").write_text("group: empty\ntask: []\n")
    config = EvalConfig(tasks=["empty"], include_path=str(tmp_path), trust_task_code=True)
    with pytest.raises(UserError, match="empty"):
        EvalTasks(config).load()


def test_an_option_that_is_longer_than_the_window(tmp_path):
    tasks = task(tmp_path, [ROW, ROW | {"options": ["b", "x" * 65, "y"]}])
    tasks.load()
    tasks.check(byte_tokenizer(), 65)
    tasks.check(byte_tokenizer(), None)
    with pytest.raises(UserError, match=r"row 1 of odd is longer than .* 64 tokens"):
        tasks.check(byte_tokenizer(), 64)
