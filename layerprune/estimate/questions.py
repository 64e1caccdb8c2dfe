"""How long the questions of well-known tasks are, so that a plan needs none of their data.

Counts are those of the published data sets. Lengths in tokens were measured on copies of MMLU,
BoolQ and GSM8K with the tokenizer of SmolLM2, whose vocabulary is half as large again as that of
Llama-2; those of HellaSwag are assumed.
"""

from dataclasses import dataclass

from layerprune.config.schema import EvalConfig


@dataclass(frozen=True)
class Task:
    """Questions of one kind."""

    questions: int
    subjects: int
    """Each with solved examples of its own."""
    question: float
    """Tokens of a question with what is asked after it, options and all."""
    example: float
    """Tokens of a solved example."""
    fewshot: int = 0
    """Solved examples where nothing is said of their number."""
    drawn: bool = True
    """Whether each question has other examples; those that are given run once for a subject."""
    positions: float = 1
    """Tokens of a question at which logits are read."""
    written: int = 0
    """Tokens that an answer is written in: as many as lm-eval lets a model write, since one with
    layers cut seldom stops by itself."""


TASKS = {
    "mmlu": Task(14_042, 57, question=109, example=106, drawn=False),
    "boolq": Task(3_270, 1, question=151, example=152),
    "hellaswag": Task(10_042, 1, question=150, example=80, positions=100),
    "gsm8k": Task(1_319, 1, question=67, example=194, fewshot=5, written=256),
    "facts": Task(711, 8, question=20, example=18, drawn=False, positions=6),
}


@dataclass(frozen=True)
class Load:
    """What one model has to do to answer everything."""

    questions: int = 0
    read: float = 0.0
    """Tokens of questions that cut models read in one pass."""
    positions: float = 0.0
    """At which logits are read."""
    seen: float = 0.0
    """Tokens that each of them is held against, in the mean."""
    alone: float = 0.0
    """Tokens of prompts that are read by each model alone, before it writes."""
    written: float = 0.0
    """Tokens that it writes."""
    answers: int = 0
    """Questions whose answers it writes."""


def load(config: EvalConfig) -> Load | None:
    """What the tasks ask of a model; None where one of them is not in the table."""
    if not set(config.tasks) <= set(TASKS):
        return None
    questions = answers = 0
    read = positions = seen = alone = written = 0.0
    for name in config.tasks:
        task = TASKS[name]
        shots = config.num_fewshot_of.get(name, config.num_fewshot)
        before = task.example * (task.fewshot if shots is None else shots)
        count = min(task.questions, (config.limit or task.questions) * task.subjects)
        questions += count
        if task.written:
            alone += count * (task.question + before)
            written += count * task.written
            answers += count
            continue
        tokens = count * (task.question + (before if task.drawn else 0))
        tokens += 0 if task.drawn else task.subjects * before
        read += tokens
        positions += count * task.positions
        seen += tokens * (task.question + before)
    return Load(questions, read, positions, seen / max(read, 1), alone, written, answers)
