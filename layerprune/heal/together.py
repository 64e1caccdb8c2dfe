"""Heal several cuts by one training (`heal=elastic`), and keep the result for later points."""

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from layerprune.heal.artifacts import ADAPTER, scale_adapters
from layerprune.heal.healing import Healed, PointHealing
from layerprune.heal.recipes.elastic import Elastic
from layerprune.record.healing import FEWEST_LAYERS, HEALED_TOGETHER, OWN_TOKENS, Healing
from layerprune.record.validation import parse
from layerprune.runtime import processes
from layerprune.runtime.atomic_files import read_checksummed, verify_checksums
from layerprune.runtime.cache import read_intact, write_dataclass
from layerprune.runtime.locks import WITHOUT_LIMIT, exclusive_lock


def heal_together(training: PointHealing) -> Healed | None:
    """Return the dense model with adapters for all cuts of `training`; train them if needed.

    The training's folder keeps `healing.json` and the adapters as they were trained; the model's
    are scaled by `heal.strength`. Other runs wait for the one that trains. Of several processes of
    one run, the first returns the model and the others None.
    """
    file = training.folder / "healing.json"
    alone = processes.num_processes() == 1  # or all of them train together
    with exclusive_lock(file, WITHOUT_LIMIT) if alone else nullcontext():
        healing = read_intact(file, _finished)
        if healing is not None:
            healed = training.restore(healing) if processes.is_main() else None
        elif (healed := training.run()) is not None:
            write_dataclass(file, healed.healing)
            shutil.rmtree(training.checkpoints, ignore_errors=True)
    if healed is not None and healed.adapted is not None:
        scale_adapters(healed.adapted, training.strength)
    return healed


def _finished(file: Path) -> Healing:
    verify_checksums(file.parent / ADAPTER)
    return parse(Healing, read_checksummed(file))


def point_healing(
    training: PointHealing, healing: Healing, removed: int, before: float, after: float
) -> Healing:
    """Return the healing of one point: the training of all cuts, with the point's own losses.

    `removed` is its number of removed layers, which no cut of the training may have. The losses of
    the steps are means over cuts.
    """
    options, counts = training.config.heal, [len(cut.dropped) for cut in training.cuts]
    assert isinstance(options, Elastic)
    sequences = options.sequences_per_cut(training.config.seed, healing.steps[-1].step, len(counts))
    own = dict(zip(counts, sequences, strict=True)).get(removed, 0)
    details: dict[str, float] = {
        HEALED_TOGETHER: len(counts),
        FEWEST_LAYERS: counts[0],
        OWN_TOKENS: own * options.sequence_length,
    }
    return replace(healing, heldout_before=before, heldout_after=after, details=details)
