"""Whether a checkpoint answers as its record says: plain transformers loads it in a fresh process.

    python -m layerprune.fitting.verify FOLDER SETTINGS

is that process: it prints, as JSON, the answers of lm-eval's own backend to the questions that a
file of settings names.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from layerprune.config.schema import Config, EvalConfig, held_after
from layerprune.errors import UserError
from layerprune.model.load import torch_device
from layerprune.record.point import Point

SAMPLE = 40
"""Questions at least, the first of each task; all of a task that has fewer."""

ENOUGH = 0.95
"""Of the answers have to be the same: rounding, where healed weights are written in fewer bits, may
turn a near tie."""


def verify(config: Config, point: Point, folder: Path, own_code: bool) -> tuple[int, int]:
    """How many of a sample of questions a checkpoint answers as its record says, and of how many.

    Raises `UserError` if it cannot be loaded, or if too many differ where both are computed in the
    same form.
    """
    known = {score["task"]: score["correct"] for score in point.scores if score["correct"]}
    if not known:
        return 0, 0
    each = -(-SAMPLE // len(known))
    limit = each if config.eval.limit is None else min(each, config.eval.limit)
    settings = {
        "eval": {**asdict(config.eval), "limit": limit},
        "dtype": config.model.dtype.value,
        "device": str(torch_device(config.runtime.device)),
        "own_code": own_code,
    }
    found = _fresh(folder, settings)
    pairs = [
        (now, before)
        for task, digits in known.items()
        for now, before in zip(found.get(task, ""), digits, strict=False)
    ]
    same = sum(now == before for now, before in pairs)
    in_few_bits = held_after(config.heal.recipe, config.model.quantization) is not None
    if not pairs or (same < ENOUGH * len(pairs) and not in_few_bits):
        raise UserError(
            f"export=hf: loaded by transformers in a fresh process, {folder} gives {same} of "
            f"{len(pairs)} answers that are in its record. It is not what was measured."
        )
    return same, len(pairs)


def _fresh(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """For each task a digit a question, 1 where a process of its own answers it rightly."""
    package = str(Path(__file__).resolve().parent.parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryDirectory() as beside:
        file = Path(beside) / "settings.json"
        file.write_text(json.dumps(settings), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "layerprune.fitting.verify", str(folder), str(file)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise UserError(f"export=hf: {folder} cannot be loaded in a fresh process: {why}")
    answers = json.loads(done.stdout.strip().splitlines()[-1])
    assert isinstance(answers, dict)
    return answers


def _answer(folder: str, settings: dict[str, Any]) -> dict[str, str]:
    from lm_eval.models.huggingface import HFLM

    from layerprune.evaluate.harness import Questions

    asked = {name: value for name, value in settings["eval"].items() if name != "speed"}
    lm = HFLM(
        pretrained=folder,
        dtype=settings["dtype"],
        device=settings["device"],
        batch_size=1,
        trust_remote_code=settings["own_code"],
    )
    scores = Questions(EvalConfig(**asked)).score(lm)
    return {score.task: score.correct for score in scores if score.correct}


if __name__ == "__main__":
    print(json.dumps(_answer(sys.argv[1], json.loads(Path(sys.argv[2]).read_text("utf-8")))))
