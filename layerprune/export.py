"""A point's model as a checkpoint of its own, which plain transformers loads."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from layerprune.config.schema import ExportConfig
from layerprune.errors import UserError
from layerprune.files import creating_folder, write_json
from layerprune.model.load import load
from layerprune.model.precision import precision
from layerprune.model.source import Source
from layerprune.model.surgery import drop_layers
from layerprune.record.identity import plain
from layerprune.record.point import Point
from layerprune.report.card import card

MODEL = "model"
"""Folder of a point with its checkpoint."""

SHARD = "5GB"
"""The largest file of weights: a larger one is slow to move, and has to be had whole to be read."""

UNKNOWN = ("_model_name_or_path", "unk_token_id")
"""What a configuration that was read from a GGUF file says, and few of its classes know."""


def export(
    source: Source,
    point: Point,
    folder: Path,
    curve: Sequence[Point] = (),
    form: ExportConfig | None = None,
    said: str = "",
) -> Path:
    """Write `folder/model`: weights, configuration, tokenizer, which layers they are, and a card.

    The model is opened again in the precision of its files, whatever it was healed and asked in;
    the layers are dropped, and what healing changed is merged into the weights. Raises `UserError`
    where that was not kept. `curve` are the points that the card shows beside this one, and `said`
    is what else it says. `form` may ask for another precision on disk.
    """
    form = form or ExportConfig(format="hf")
    loaded = load(source, precision(source.folder), "cpu")
    model = drop_layers(loaded.model, point.plan["dropped"])
    if point.healing is not None and point.healing["steps"][-1]["step"] > 0:
        from layerprune.heal.keep import healed  # peft: only where it is used

        try:
            model = healed(model, folder)
        except FileNotFoundError:
            raise UserError(
                f"export=hf: what {point.healing['recipe']} changed was not kept in {folder}. "
                "Remove that folder, and run this again with export=hf."
            ) from None
    if form.dtype is not None:  # only now: updates are merged in the finer precision
        model = model.to(getattr(torch, form.dtype.value))
    _forget_unknown(model.config)
    with creating_folder(folder / MODEL) as beside:
        model.save_pretrained(beside, max_shard_size=SHARD)
        loaded.tokenizer.save_pretrained(beside)
        write_json(
            beside / "layerprune.json",
            {
                "key": point.key,
                "model": point.model,
                "plan": point.plan,
                "scores": point.scores,
                "loss": point.loss,
                "versions": point.provenance["versions"],
                "export": plain(dataclasses.asdict(form)),
                "said": said,
            },
        )
        (beside / "README.md").write_text(card(point, curve, form, said), encoding="utf-8")
    return folder / MODEL


def _forget_unknown(config: Any) -> None:
    known = {field.name for field in dataclasses.fields(config)}
    for name in set(UNKNOWN) - known:
        vars(config).pop(name, None)
