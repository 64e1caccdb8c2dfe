"""Facts whose answers are generated: the questions are from `facts`; the right word counts."""

import hashlib
from pathlib import Path

from lm_eval.api.model import LM

from layerprune.config.schema import EvalConfig
from layerprune.evaluate.eval_tasks import OWN_TASKS, EvalTasks


class Writer(LM):
    """Writes one answer, whatever it is asked."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.prompts = answer, []

    def generate_until(self, requests):
        self.prompts += [request.args[0] for request in requests]
        return [self.answer for _ in requests]

    def loglikelihood(self, requests):
        raise AssertionError

    loglikelihood_rolling = loglikelihood


def test_an_answer_counts_that_is_the_right_word():
    lm = Writer(" bern.")
    (score,) = EvalTasks(EvalConfig(tasks=["facts_written"], limit=3)).score(lm)
    assert score.measures["exact_match"].value == sum("Switzerland" in each.split("\n\n")[-1]
                                                      for each in lm.prompts) / 3  # fmt: skip
    assert "Switzerland" in lm.prompts[0]
    assert score.num_fewshot == 4
    assert all(prompt.count("Question:") == 5 for prompt in lm.prompts)


def test_its_file_changes_when_its_questions_do():
    """What identifies a point is the task's own folder, and the questions lie in another."""
    data = [OWN_TASKS / "facts" / "data" / split / "capitals.jsonl" for split in ("test", "dev")]
    digests = "".join(hashlib.sha256(path.read_bytes()).hexdigest() + "\n" for path in data)
    found = hashlib.sha256(digests.encode()).hexdigest()[:12]
    assert f"data: {found}" in Path(OWN_TASKS / "written" / "facts_written.yaml").read_text()
