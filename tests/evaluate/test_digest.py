"""What the key of a point knows of the files that its questions come from."""

import pytest
from lm_eval.tasks import TaskManager

from layerprune.evaluate.digest import digest as digest_of
from layerprune.evaluate.eval_tasks import OWN_TASKS

TAGGED = """
task: tagged
tag: some
include: ../bases/base.yaml
dataset_path: json
dataset_kwargs:
  data_files: {test: [set/*.jsonl]}
"""


@pytest.mark.parametrize("name", ["tagged", "some", "both", "outer"])
@pytest.mark.parametrize(
    "changed",
    [
        "tasks/one/tagged.yaml",
        "tasks/bases/base.yaml",
        "tasks/bases/functions.py",
        "set/rows.jsonl",
    ],
)
def test_digest_follows_what_stands_in_groups_and_under_tags(tmp_path, name, changed):
    tasks = tmp_path / "tasks"
    for folder in ("one", "groups", "bases"):
        (tasks / folder).mkdir(parents=True)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "rows.jsonl").write_text("{}\n")
    (tasks / "bases" / "base.yaml").write_text("output_type: multiple_choice\ntest_split: test\n")
    (tasks / "one" / "tagged.yaml").write_text(TAGGED)
    both = "group: both\ntask:\n- task: tagged\n  num_fewshot: 1\n"
    (tasks / "groups" / "both.yaml").write_text(both)
    outer = "group: outer\ntask:\n- group: inner\n  task: [both]\n"
    (tasks / "groups" / "outer.yaml").write_text(outer)

    def digest():
        index = TaskManager(include_path=[tasks], include_defaults=False).task_index
        return digest_of(index, [name], OWN_TASKS, tmp_path)

    before = digest()
    assert digest() == before
    if changed.endswith(".py"):
        (tmp_path / changed).write_text("")
    with (tmp_path / changed).open("a") as file:
        file.write("\n# another\n")
    assert digest() != before
