"""What is asked, and what is made of lm-eval's results."""

import itertools
from pathlib import Path

import pytest
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tiny import byte_tokenizer, tiny

from layerprune.config.schema import EvalConfig
from layerprune.errors import UserError
from layerprune.evaluate.eval_tasks import EvalTasks, _by_task
from layerprune.evaluate.scorer import Scorer
from layerprune.evaluate.scores import _accuracy
from layerprune.record.scores import Measure

SAMPLED = """
task: sampled
custom_dataset: !function rows.load
output_type: multiple_choice
training_split: train
test_split: test
fewshot_split: train
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_mutual_info
"""

FILTERED = """
task: filtered
custom_dataset: !function rows.load
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
metric_list:
  - metric: exact_match
filter_list:
  - name: first
    filter: [{function: take_first}]
  - name: again
    filter: [{function: take_first}]
"""

GROUPS = """
group: without_aggregate
task: [sampled]
"""

ROWS = """
from datasets import Dataset
def load(**_):
    def rows(start):
        return Dataset.from_list([
            {"question": f"q{start + at}", "choices": ["a", "b", "c"], "answer": at % 3}
            for at in range(12)
        ])
    return {"train": rows(100), "test": rows(0)}
"""


def ask_for(folder, *tasks, **settings):
    """Tasks of the files below: their data is code."""
    return EvalConfig(
        **{"tasks": list(tasks), "include_path": str(folder), "trust_task_code": True} | settings
    )


@pytest.fixture
def folder(tmp_path):
    for name, text in (("sampled.yaml", SAMPLED), ("filtered.yaml", FILTERED),
                       ("groups.yaml", GROUPS), ("rows.py", ROWS)):  # fmt: skip
        (tmp_path / name).write_text(text)
    return tmp_path


class Listener(LM):
    """Answers everything alike, and keeps what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def loglikelihood(self, requests):
        self.asked += [request.args for request in requests]
        return [(-1.0, False) for _ in requests]

    def generate_until(self, requests):
        self.asked += [request.args for request in requests]
        return ["a" for _ in requests]

    def loglikelihood_rolling(self, requests):
        return [-1.0 for _ in requests]


def test_every_model_is_shown_the_same_examples(folder):
    questions = EvalTasks(ask_for(folder, "sampled", num_fewshot=2))
    first, second = Listener(), Listener()
    assert questions.score(first) == questions.score(second)
    assert first.asked == second.asked
    single = Listener()
    EvalTasks(ask_for(folder, "sampled", num_fewshot=2)).score(single)
    assert single.asked == first.asked
    assert "q1" in first.asked[0][0].split("\n\n")[0]


def test_examples_are_those_of_lm_evals_own_door(folder):
    from lm_eval import simple_evaluate

    ours, theirs = Listener(), Listener()
    EvalTasks(ask_for(folder, "sampled", num_fewshot=3)).score(ours)
    simple_evaluate(
        theirs, tasks=["sampled"], num_fewshot=3, bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
    )  # fmt: skip
    assert ours.asked == theirs.asked


def test_the_most_common_answer_is_counted_where_options_are_the_same(folder):
    def majority(rows):
        (folder / "rows.py").write_text(rows)
        config = ask_for(folder, "sampled")
        (score,) = EvalTasks(config).score(Listener())
        return score.majority

    assert majority(ROWS) == pytest.approx(1 / 3)
    assert majority(ROWS.replace("at % 3", "2 * (at % 4 > 0)")) == pytest.approx(3 / 4)
    assert majority(ROWS.replace('"a", "b"', '*("ab" if at else "ba")')) is None


def test_an_answer_by_its_text_is_counted_by_its_place(folder):
    (folder / "rows.py").write_text(ROWS.replace("at % 3", '"c" if at % 3 else "a"'))
    config = ask_for(folder, "sampled")
    (score,) = EvalTasks(config).score(Listener())
    assert score.majority == pytest.approx(2 / 3)


GIVEN = SAMPLED.replace("task: sampled", "task: given").replace(
    "doc_to_text", "fewshot_config: {sampler: first_n}\ndoc_to_text"
)


def test_given_examples_are_shuffled_by_a_seed_the_same_for_every_question(folder):
    (folder / "given.yaml").write_text(GIVEN)

    def prefixes(**changes):
        lm = Listener()
        EvalTasks(ask_for(folder, "given", num_fewshot=4, **changes)).score(lm)
        return {prompt.rpartition("q")[0] for prompt, _ in lm.asked if prompt}

    (given,) = prefixes()
    (one,), (again,), (other,) = (prefixes(fewshot_seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert len({given, one, other}) == 3
    assert sorted(one.split("\n\n")) == sorted(given.split("\n\n"))


def test_drawn_examples_are_others_by_another_seed(folder):
    asked = []
    for seed in (None, 1234, 1):
        lm = Listener()
        EvalTasks(ask_for(folder, "sampled", num_fewshot=2, fewshot_seed=seed)).score(lm)
        asked.append(lm.asked)
    assert asked[0] == asked[1] != asked[2]


def test_a_task_may_have_its_own_number_of_examples(folder):
    (folder / "given.yaml").write_text(GIVEN)

    def of(**few):
        return EvalTasks(ask_for(folder, "given", "sampled", num_fewshot=3, num_fewshot_of=few))

    found = of(given=1).score(Listener())
    assert {score.task: score.num_fewshot for score in found} == {"given": 1, "sampled": 3}
    with pytest.raises(UserError, match=r"num_fewshot_of: facts is not in eval"):
        of(facts=1).load()


class Named:
    """A task, or a group of some, as far as its name goes."""

    def __init__(self, name, *tasks):
        self.task_name, self._tasks = name, tasks

    def get_all_tasks(self):
        return [each for task in self._tasks for each in task.get_all_tasks()] or [self]


def test_of_a_task_and_the_groups_around_it_the_nearest_number_counts():
    tasks = [Named(name) for name in "abc"]
    inner = Named("inner", *tasks[:2])
    loaded = {
        "tasks": {each.task_name: each for each in tasks},
        "groups": {"inner": inner, "outer": Named("outer", inner, tasks[2])},
    }
    for names in itertools.permutations(("outer", "inner", "b")):
        numbers = {name: {"outer": 5, "inner": 0, "b": 2}[name] for name in names}
        assert _by_task(numbers, loaded) == {"a": 0, "b": 2, "c": 5}
    assert _by_task({"inner": 3}, loaded) == {"a": 3, "b": 3}


def test_options_are_counted_once(folder):
    (score,) = EvalTasks(ask_for(folder, "sampled")).score(Listener())
    assert score.chance == pytest.approx(1 / 3)
    assert score.num_samples == 12
    assert len(score.correct) == 12
    assert score.accuracy == "acc"


def test_a_group_may_be_counted_by_a_later_filter_of_its_tasks():
    one = Measure(0.5, None)
    assert _accuracy({"exact_match.again": one}, ["first", "first"]) == "exact_match.again"
    assert _accuracy({"exact_match.again": one, "exact_match.first": one}, ["first"]) == (
        "exact_match.first"
    )
    assert _accuracy({"exact_match.first": one, "acc": one}, ["none"]) == "acc"
    assert _accuracy({"word_perplexity": one}, ["none"]) is None


def test_filters_do_not_multiply_questions(folder):
    (score,) = EvalTasks(ask_for(folder, "filtered")).score(Listener())
    assert score.num_samples == 12
    assert score.chance is None
    assert score.majority is None
    assert score.correct.count("1") == 4
    assert set(score.measures) == {"exact_match.first", "exact_match.again"}
    assert score.accuracy == "exact_match.first"
    assert score.measures["exact_match.first"].value == pytest.approx(1 / 3)


@pytest.mark.slow
def test_a_group_without_an_aggregate_is_nobodys_parent(folder):
    (score,) = EvalTasks(ask_for(folder, "without_aggregate")).score(Listener())
    assert (score.task, score.parent) == ("sampled", None)


def test_digest_follows_the_files_of_the_asked_tasks_only(folder):
    def digest(**changes):
        return EvalTasks(ask_for(folder, **{"tasks": ["sampled"], **changes})).digest

    before = digest()
    (folder / "outputs").mkdir()
    (folder / "outputs" / "record.json").write_text("{}")
    assert digest() == before
    (folder / "rows.py").write_text(ROWS.replace("range(12)", "range(13)"))
    assert digest() != before


def test_facts_keep_their_digest_wherever_the_users_tasks_are(folder):
    alone = EvalTasks(EvalConfig(tasks=["facts"])).digest
    assert EvalTasks(EvalConfig(tasks=["facts_capitals"])).digest == alone


@pytest.mark.slow
def test_an_unknown_task_is_named_with_its_neighbours(folder):
    with pytest.raises(UserError, match=r"eval\.tasks: facts_capital .*facts_capitals"):
        EvalTasks(EvalConfig(tasks=["facts_capital"]))


def test_data_sets_are_read_from_a_folder_of_copies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "copies" / "somebody" / "things"
    copy.mkdir(parents=True)
    (copy / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: test\n    path: test.jsonl\n---\n"
    )
    (copy / "test.jsonl").write_text(
        "".join(f'{{"question": "q{at}", "choices": ["a", "b"], "answer": 0}}\n' for at in range(5))
    )
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "things.yaml").write_text(
        "task: things\ndataset_path: somebody/things\noutput_type: multiple_choice\n"
        'test_split: test\ndoc_to_text: "{{question}}"\ndoc_to_choice: "{{choices}}"\n'
        "doc_to_target: answer\nmetric_list: [{metric: acc}]\n"
    )
    settings = {"tasks": ["things"], "include_path": "tasks"}
    questions = EvalTasks(EvalConfig(**settings, datasets_dir="copies"))
    questions.load()
    (task,) = questions._loaded["tasks"].values()
    assert [doc["question"] for doc in task.test_docs()] == [f"q{at}" for at in range(5)]
    assert Path.cwd() == tmp_path
    with pytest.raises(UserError, match=r"eval\.tasks=\['things'\] cannot be loaded"):
        EvalTasks(EvalConfig(**settings)).load()
    with pytest.raises(UserError, match=r"eval\.datasets_dir=nowhere"):
        EvalTasks(EvalConfig(**settings, datasets_dir="nowhere"))


def test_tokenizers_without_bos_and_eos_are_refused():
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = None
    EvalTasks(EvalConfig(tasks=["facts"])).check(tokenizer, None)
    tokenizer.eos_token = None
    with pytest.raises(UserError, match=r"Set bos_token or eos_token in its tokenizer_config"):
        EvalTasks(EvalConfig(tasks=["facts"])).check(tokenizer, None)


def test_a_chat_template_frames_questions_and_examples(folder):
    config = ask_for(folder, "sampled", num_fewshot=1, chat_template=True, limit=4)
    tokenizer, model = byte_tokenizer(), tiny("llama", vocab_size=259)
    with pytest.raises(UserError, match=r"eval\.chat_template=true: the model's tokenizer"):
        EvalTasks(config).check(tokenizer, None)
    tokenizer.chat_template = (
        "{% for each in messages %}<{{ each.role }}>{{ each.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    lm = Scorer(model, tokenizer)
    asked = []
    original = lm.loglikelihood
    lm.loglikelihood = lambda requests, **_: asked.extend(requests) or original(requests)
    ours = EvalTasks(config).score(lm)
    prompts = {request.args[0] for request in asked} - {""}  # mutual information asks without any
    assert len(prompts) == 4
    assert all(prompt.count("<user>") == 2 for prompt in prompts)
    assert all(prompt.endswith("<assistant>") for prompt in prompts)
    assert ours == EvalTasks(config).score(HFLM(pretrained=model, tokenizer=tokenizer))


CHOSEN = GIVEN
WRITTEN = FILTERED.replace(
    "test_split", "fewshot_split: train\nfewshot_config: {sampler: first_n}\ntest_split"
).replace("task: filtered", "task: given")
BEGUN = (
    GIVEN.replace('"{{question}}"', "answer")
    .replace("doc_to_target: answer", 'doc_to_target: "{{question}}"')
    .replace("  - metric: acc_mutual_info\n", "")
)
"""Options are beginnings, and all end alike."""
PREFIXED = GIVEN + 'gen_prefix: "It is"\n'


@pytest.mark.parametrize("given", [CHOSEN, WRITTEN, BEGUN, PREFIXED])
def test_questions_with_their_answers_are_solved_examples_as_lm_eval_writes_them(folder, given):
    asked = given.replace("task: given", "task: asked").replace("split: test", "split: train")
    (folder / "given.yaml").write_text(given)
    (folder / "asked.yaml").write_text(asked)
    lm = Listener()
    EvalTasks(ask_for(folder, "given", num_fewshot=12)).score(lm)
    prompt = next(prompt for prompt, _ in lm.asked if prompt)
    examples = prompt[: prompt.rindex("\n\n") + 2]
    assert examples.count("\n\n") == 12
    assert EvalTasks(ask_for(folder, "asked", limit=3)).solved_examples() == [examples]


@pytest.mark.slow
def test_solved_questions_are_in_one_order_however_tasks_are_named(folder):
    def solved(*tasks):
        return EvalTasks(ask_for(folder, *tasks)).solved_examples()

    assert solved("sampled", "filtered") == solved("filtered", "sampled")
    assert solved("without_aggregate") == solved("sampled")


def test_answers_that_cannot_be_written_are_one_line(folder):
    (folder / "filtered.yaml").write_text(FILTERED.replace('"{{choices[answer]}}"', "answer"))
    questions = EvalTasks(ask_for(folder, "filtered"))
    with pytest.raises(UserError, match=r"filtered cannot be written with its right answers: "):
        questions.solved_examples()
