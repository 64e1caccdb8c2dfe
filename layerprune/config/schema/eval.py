"""What a model is asked, and how its speed is measured."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from layerprune.errors import UserError


@dataclass(kw_only=True, slots=True)
class SpeedConfig:
    """How the speed of un-healed cut models is measured, each beside the whole model."""

    rounds: int = 0
    """Turns of each model that count; 0 measures no speed."""
    batch_size: int = 1
    """Sequences at once."""
    prompt_tokens: int = 256
    """Read before the first token is written."""
    new_tokens: int = 33
    """Written after each prompt; the first of them is counted with the prompt."""

    def __post_init__(self) -> None:
        for key, least in (
            ("rounds", 0), ("batch_size", 1), ("prompt_tokens", 1), ("new_tokens", 2)
        ):  # fmt: skip
            if getattr(self, key) < least:
                raise UserError(
                    f"eval.speed.{key}={getattr(self, key)}: it must be at least {least}."
                )


@dataclass(kw_only=True, slots=True)
class EvalConfig:
    """What the pruned model is asked."""

    tasks: list[str] = MISSING
    """Names of lm-eval tasks or groups, the project's own among them."""
    num_fewshot: int | None = None
    """Solved examples before each question; each task's own default if not given."""
    num_fewshot_of: dict[str, int] = field(default_factory=dict)
    """The same of single tasks, or of all in a group, in place of `num_fewshot`."""
    fewshot_seed: int | None = None
    """Shuffles the solved examples of tasks whose examples are given; tasks that draw theirs draw
    others. lm-eval's own order and draw if not given."""
    limit: int | None = None
    """Questions per task, the first ones of each; all if not given."""
    chat_template: bool = False
    """Ask in the form that the model's tokenizer gives to a conversation; solved examples are turns
    of it."""
    include_path: str | None = None
    """A folder with lm-eval task files of the user's own."""
    trust_task_code: bool = False
    """Run the Python that task files of `include_path` name, and measures that are code."""
    datasets_dir: str | None = None
    """A folder with copies of data sets of the hub, each in a folder named by its id, as in
    `FOLDER/cais/mmlu`: tasks read these, and the hub for all others. Records do not tell a copy
    from the original: it must be one."""
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    """How the speed is measured; `eval=speed` measures it."""

    def __post_init__(self) -> None:
        if not self.tasks and not self.speed.rounds:
            raise UserError("eval.tasks=[] is empty: name at least one lm-eval task.")
        for key, value, least in (
            ("eval.num_fewshot", self.num_fewshot, 0),
            *((f"eval.num_fewshot_of.{task}", of, 0) for task, of in self.num_fewshot_of.items()),
            ("eval.fewshot_seed", self.fewshot_seed, 0),
            ("eval.limit", self.limit, 1),
        ):
            if value is not None and value < least:
                raise UserError(f"{key}={value}: it must be at least {least}.")
