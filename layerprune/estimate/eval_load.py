"""Sizes of well-known tasks: an estimate then needs none of their data.

Counts are from the published data sets. Lengths in tokens were measured on copies of MMLU, BoolQ
and GSM8K with SmolLM2's tokenizer, whose vocabulary is 1.5 times Llama-2's; HellaSwag's are
assumed.
"""

from dataclasses import dataclass

from layerprune.config.schema import EvalConfig


@dataclass(frozen=True)
class TaskSize:
    """Questions of a task and their lengths."""

    questions: int
    subjects: int
    """Number of subjects, each with its own few-shot examples."""
    question: float
    """Tokens of a question with its options."""
    example: float
    """Tokens of a few-shot example."""
    fewshot: int = 0
    """Number of few-shot examples by default."""
    drawn: bool = True
    """True if each question has its own few-shot examples; a subject's shared ones run once."""
    positions: float = 1
    """Tokens of a question that need logits."""
    generated: int = 0
    """Tokens of a generated answer: lm-eval's limit, since a cut model seldom stops by itself."""


TASKS = {
    "mmlu": TaskSize(14_042, 57, question=109, example=106, drawn=False),
    "boolq": TaskSize(3_270, 1, question=151, example=152),
    "hellaswag": TaskSize(10_042, 1, question=150, example=80, positions=100),
    "gsm8k": TaskSize(1_319, 1, question=67, example=194, fewshot=5, generated=256),
    "facts": TaskSize(711, 8, question=20, example=18, drawn=False, positions=6),
}


@dataclass
class EvalLoad:
    """Work of one model in an evaluation."""

    shared_tokens: float = 0.0
    """Input tokens that cut models process in a shared pass."""
    positions: float = 0.0
    """Tokens that need logits."""
    mean_length: float = 0.0
    """Mean length of the sequence of a shared token."""
    prompt_tokens: float = 0.0
    """Input tokens before generation, which each model processes by itself."""
    generated_tokens: float = 0.0
    generations: int = 0
    """Questions with generated answers."""


def eval_load(config: EvalConfig) -> EvalLoad | None:
    """Return the work of the evaluation tasks; None if one of them is not in the table."""
    if not set(config.tasks) <= set(TASKS):
        return None
    load, pairs = EvalLoad(), 0.0
    for name in config.tasks:
        task = TASKS[name]
        shots = config.num_fewshot_of.get(name, config.num_fewshot)
        examples = task.example * (task.fewshot if shots is None else shots)
        count = min(task.questions, (config.limit or task.questions) * task.subjects)
        if task.generated:
            load.prompt_tokens += count * (task.question + examples)
            load.generated_tokens += count * task.generated
            load.generations += count
            continue
        tokens = count * task.question + (count if task.drawn else task.subjects) * examples
        load.shared_tokens += tokens
        load.positions += count * task.positions
        pairs += tokens * (task.question + examples)
    load.mean_length = pairs / max(load.shared_tokens, 1)
    return load
