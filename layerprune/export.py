"""A point's model as a checkpoint of its own, which plain transformers loads."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from layerprune.config.schema import ExportConfig
from layerprune.errors import UserError
from layerprune.files import replacing_folder, write_json
from layerprune.model.load import load, load_tokenizer
from layerprune.model.precision import precision
from layerprune.model.settings import forget_unknown
from layerprune.model.shards import write_without
from layerprune.model.source import Source
from layerprune.model.surgery import drop_layers
from layerprune.record.checkpoint import ABOUT, MODEL
from layerprune.record.identity import plain
from layerprune.record.point import Point
from layerprune.report.card import card

SHARD = 5 * 10**9
"""Bytes of the largest file: a larger one is slow to move, and has to be had whole to be read."""


def export(
    source: Source,
    point: Point,
    folder: Path,
    curve: Sequence[Point] = (),
    form: ExportConfig | None = None,
    said: str = "",
) -> Path:
    """Write `folder/model`: weights, configuration, tokenizer, which layers they are, and a card.

    Weights are in the precision of the model's files, whatever it was healed and asked in, or in
    that of `form`, and take the place of a checkpoint in another one. They are copied from file to
    file where nothing has changed them; else the model is opened again, and what healing changed is
    merged into it. Raises `UserError` where that was not kept. `curve` are the points that the card
    shows beside this one, and `said` is what else it says.
    """
    form = form or ExportConfig(format="hf")
    dropped, healing = point.plan["dropped"], point.healing
    changed = healing is not None and healing["steps"][-1]["step"] > 0
    tokenizer = load_tokenizer(source)
    with replacing_folder(folder / MODEL) as beside:
        if changed or not write_without(source, dropped, beside, form.dtype, SHARD):
            _write_opened(source, point, folder if changed else None, form, beside)
        tokenizer.save_pretrained(beside)
        write_json(
            beside / ABOUT,
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


def _write_opened(
    source: Source, point: Point, changes: Path | None, form: ExportConfig, beside: Path
) -> None:
    """Write the weights and configuration of a point's model, which is in memory meanwhile.

    What healing changed is in the folder `changes`, if it changed anything.
    """
    loaded = load(source, precision(source.folder), "cpu")
    model = drop_layers(loaded.model, point.plan["dropped"])
    if changes is not None and point.healing is not None:
        from layerprune.heal.keep import healed  # peft: only where it is used

        try:
            model = healed(model, changes)
        except FileNotFoundError:
            raise UserError(
                f"export=hf: what {point.healing['recipe']} changed was not kept in {changes}. "
                "Remove that folder, and run this again with export=hf."
            ) from None
    if form.dtype is not None:  # only now: updates are merged in the finer precision
        model = model.to(getattr(torch, form.dtype.value))
    forget_unknown(model.config)
    model.save_pretrained(beside, max_shard_size=SHARD)
