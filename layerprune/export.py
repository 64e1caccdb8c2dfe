"""A point's model as a checkpoint of its own, which plain transformers loads."""

from collections.abc import Sequence
from pathlib import Path

from layerprune.errors import UserError
from layerprune.files import creating_folder, write_json
from layerprune.model.load import load
from layerprune.model.source import Source
from layerprune.model.surgery import drop_layers
from layerprune.record.point import Point
from layerprune.report.card import card

MODEL = "model"
"""Folder of a point with its checkpoint."""


def export(source: Source, point: Point, folder: Path, curve: Sequence[Point] = ()) -> Path:
    """Write `folder/model`: weights, configuration, tokenizer, which layers they are, and a card.

    The model is opened again in the precision of its files, whatever it was healed and asked in;
    the layers are dropped, and what healing changed is merged into the weights. Raises `UserError`
    where that was not kept. `curve` are the points that the card shows beside this one.
    """
    loaded = load(source, None, "cpu")
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
    with creating_folder(folder / MODEL) as beside:
        model.save_pretrained(beside)
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
            },
        )
        (beside / "README.md").write_text(card(point, curve), encoding="utf-8")
    return folder / MODEL
