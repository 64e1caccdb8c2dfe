"""What a job leaves behind in its process: nothing that a later one could notice."""

import random

import numpy as np
import pytest
import torch

from layerprune.config.compose import compose
from layerprune.run import pipeline
from layerprune.runtime.seeding import seeded

pytestmark = pytest.mark.slow

TRAINING = (
    "heal.steps=3", "heal.batch_size=2", "heal.micro_batch_size=2", "heal.sequence_length=32",
    "heal.warmup_steps=1",
)  # fmt: skip

OTHERS = (
    ("prune.fraction=0.5", "seed=3"),
    ("prune.fraction=0.25", "metric=taylor"),
    ("prune.fraction=0.25", "metric=random", "seed=7"),
    ("prune.fraction=0.25", "model.dtype=bfloat16"),
    ("prune.fraction=0.25", "prune=greedy", "metric=perplexity"),
    ("prune.fraction=0.25", "heal=full", *TRAINING, "heal.learning_rate=1e-3"),
    ("prune.fraction=0.25", "heal=qlora", *TRAINING, "heal.rank=2"),
    ("prune.fraction=0.25", "heal=seam", *TRAINING, "heal.sequences=8", "heal.text_share=0.5"),
    ("prune.fraction=0.25", "heal=linear", "heal.sequences=64", "heal.sequence_length=32"),
    ("prune.fraction=0.25", "heal=lora", *TRAINING, "heal.rank=4", "seed=5", "runtime.threads=2"),
)


def point(home, folder, tasks, *overrides):
    config = compose(
        "model=custom", f"model.path={folder}", f"eval.include_path={tasks}",
        "eval.trust_task_code=true",
        "eval.tasks=[letters]", "data.sequence_length=32", "data.calibration_sequences=8",
        "data.heldout_sequences=4", f"runtime.outputs={home}", "runtime.threads=1", *overrides,
    )  # fmt: skip
    (made,) = pipeline.run(config)
    steps = made.healing and [step.loss for step in made.healing.steps]
    return made.scores, made.loss, made.plan, steps


def test_points_after_ten_others_are_the_same_to_the_bit(tmp_path, tiny_folder, tiny_tasks):
    asked = (tiny_folder, tiny_tasks, "prune.fraction=0.375")
    healing = ("heal=lora", *TRAINING, "heal.rank=2")

    def both(name):
        return [point(tmp_path / name, *asked, *heal) for heal in ((), healing)]

    alone = both("alone")
    for overrides in OTHERS:
        point(tmp_path / "after", tiny_folder, tiny_tasks, *overrides)
    assert both("after") == alone


def test_settings_are_as_they_were():
    def seen():
        return (
            torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
            torch.rand(1).item(), random.random(), np.random.rand(),
        )  # fmt: skip

    def seed():
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)

    seed()
    before = seen()
    seed()
    with seeded(seed=5, threads=1, float32_matmul_precision="medium"):
        assert torch.get_float32_matmul_precision() == "medium"
        first = torch.rand(3)
        torch.set_default_dtype(torch.bfloat16)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        random.random()
    assert seen() == before
    with seeded(seed=5, threads=1):
        assert torch.equal(torch.rand(3), first)
