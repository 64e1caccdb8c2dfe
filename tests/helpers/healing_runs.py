"""Tiny models healed by a recipe, and the weights that changed."""

import torch
from tiny import byte_tokenizer

from layerprune.config.compose import compose
from layerprune.config.registry import RECIPES
from layerprune.config.schema import Config, DataConfig, TrainingOptions
from layerprune.data.sequences import pack_documents
from layerprune.data.text import read_text
from layerprune.evaluate.heldout_loss import heldout_loss
from layerprune.heal.healing import PointHealing
from layerprune.model.load import load
from layerprune.model.source import locate
from layerprune.model.surgery import drop_layers
from layerprune.prune.plan import Plan

TRAINED = sorted(
    name for name, options in RECIPES.choices().items() if issubclass(options, TrainingOptions)
)
PLAN = Plan("block", 8, (3, 4, 5), 0.1, "a test")
CUTS = tuple(Plan("block", 8, tuple(range(3, 3 + count)), None, "a test") for count in range(5))
"""The cuts that `heal=elastic` heals together."""
IDS = pack_documents(read_text(DataConfig()).healing, byte_tokenizer(), 32, 4).long()
SMALL = (
    "heal.steps=6", "heal.batch_size=4", "heal.micro_batch_size=2", "heal.sequence_length=32",
    "heal.warmup_steps=1", "heal.learning_rate=1e-2", "heal.eval_every=3", "heal.save_every=2",
)  # fmt: skip


def configure(folder, recipe, *overrides) -> Config:
    small = SMALL if recipe in TRAINED else ("heal.sequences=20", "heal.sequence_length=32")
    extra = ("heal.rank=4",) if recipe in ("lora", "qlora", "elastic") else ()
    extra += ("heal.text_share=0.5",) if recipe == "seam" else ()
    return compose(
        "model=custom", f"model.path={folder}", f"heal={recipe}", *small, *extra, *overrides
    )


def run(folder, tmp_path, recipe, *overrides, plan=PLAN):
    config = configure(folder, recipe, *overrides)
    source = locate(config.model, tmp_path / "cache")

    def loss(model):
        return heldout_loss(model, IDS, 4).nats

    point = tmp_path / "point"
    text = read_text(config.data)
    cuts = ()
    if recipe == "elastic":
        plan, *_ = cuts = CUTS
    return PointHealing(
        source, plan, text, config, point, point / "checkpoints", loss, cuts=cuts
    ).run()


def cut(folder, tmp_path):
    config = configure(folder, "full")
    model = load(locate(config.model, tmp_path / "cache"), config.model.dtype, "cpu").model
    return drop_layers(model, PLAN.dropped)


def weights(model):
    return {name.replace(".base_layer", ""): value for name, value in model.named_parameters()}


def changed(folder, tmp_path, recipe, *overrides):
    before = weights(cut(folder, tmp_path))
    after = weights(run(folder, tmp_path, recipe, *overrides).loaded.model)
    return {name for name, value in before.items() if not torch.equal(value, after[name])}
