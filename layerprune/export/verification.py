"""Compare a checkpoint, opened by plain transformers in a fresh process, with what was measured."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from layerprune.config.schema import Dtype
from layerprune.errors import UserError
from layerprune.model.load import LoadedModel, load
from layerprune.model.source import Source
from layerprune.model.stack import text_config
from layerprune.model.surgery import drop_layers
from layerprune.record.point import Point

LENGTH = 64
"""Tokens whose logits are compared."""

TEXT = "The year 2024,\n   2 cafés: åß 你好 isn't 1,234.5"
"""The text whose tokens are compared."""

REASON = re.compile(r"(?:error loading model: |^(?=\w*(?:Error|Exception)\b))(.+)")
"""An error of llama.cpp or Python in what a process printed. Others that follow are its effects."""

EXACT, ROUNDED = 1e-3, 0.1
"""Relative distance of the logits that is accepted: of equal weights, and of rounded ones."""


def measured_model(
    source: Source, point: Point, changes: Path | None, dtype: Dtype | None, stream: bool = False
) -> LoadedModel:
    """Return a point's model: loaded on the CPU, cut, and with its healing if there are `changes`.

    Raises `UserError` if these were not kept.
    """
    loaded = load(source, dtype, "cpu", stream=stream)
    model = drop_layers(loaded.model, point.plan.dropped)
    if changes is not None:
        from layerprune.heal.artifacts import apply_artifacts  # peft: only where it is used

        try:
            model = apply_artifacts(model, changes)
        except FileNotFoundError:
            raise UserError(
                f"export: {changes} has no weights healed by {point.recipe}. "
                "Remove that folder, and rerun the same command."
            ) from None
    return LoadedModel(model, loaded.tokenizer)


def verify_logits(
    source: Source, point: Point, changes: Path | None, folder: Path, exact: bool, stream: bool
) -> None:
    """Raise `UserError` unless the checkpoint in `folder` has the point's logits and tokens.

    Both models are computed on the CPU, in the dtype of the measurement. `exact` says that weights
    were neither healed nor rounded.
    """
    dtype = Dtype(point.identity["model"]["dtype"])
    measured = measured_model(source, point, changes, dtype, stream)
    ids_1T = random_ids(measured)
    expected = logits_of(measured, ids_1T)
    tokens = measured.tokenizer(TEXT)["input_ids"]
    del measured
    settings = {
        "ids": ids_1T[0].tolist(),
        "text": TEXT,
        "dtype": dtype.value,
        "device_map": "auto" if stream else {"": "cpu"},
        "remote_code": source.remote_code,
        "threads": torch.get_num_threads(),
    }
    reopened = reopened_elsewhere(folder, settings)
    error = relative_distance(reopened["logits"], expected)
    if reopened["unread"]:
        problem = (
            f"has weights that transformers does not read as they are: {reopened['unread'][0]}"
        )
    elif not error <= (EXACT if exact else ROUNDED):
        problem = f"gives logits that are {error:.1%} off the measured model's"
    elif reopened["tokens"] != tokens:
        problem = "splits text into other tokens than the measured model's tokenizer"
    else:
        return
    raise UserError(
        f"export=hf: opened by transformers in a fresh process, the checkpoint of {point.key} "
        f"{problem}. It was removed; use export=none."
    )


def random_ids(loaded: LoadedModel) -> Tensor:
    """Return the token ids [1, T] that logits are compared on: the same ones for a vocabulary."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(text_config(loaded.model).vocab_size)
    return torch.randint(vocabulary, (1, LENGTH), generator=generator)


def logits_of(loaded: LoadedModel, ids_1T: Tensor) -> Tensor:
    """Return a model's logits [1, T, V] in float32."""
    with torch.inference_mode():
        logits: Tensor = loaded.model(input_ids=ids_1T, use_cache=False).logits.float()
    return logits


def relative_distance(logits: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference, divided by the norm of what is expected."""
    return float((logits - expected).norm() / expected.norm())


def reopened_elsewhere(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the results of `reopen.py` for a folder, from a process without this project."""
    program = str(Path(__file__).with_name("reopen.py"))
    title = "export=hf: transformers cannot open the checkpoint"
    return run_elsewhere([program], folder, settings, title)


def gguf_reopened_elsewhere(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the results of `reopen_gguf.py` for a file, from a separate process."""
    title = "export=gguf: transformers cannot open the file"
    return run_elsewhere(["-m", "layerprune.export.reopen_gguf"], file, settings, title)


def run_elsewhere(
    program: Sequence[str], target: Path, settings: dict[str, Any], title: str
) -> dict[str, Any]:
    """Return what a Python program writes for `target`, from a separate process on the CPU.

    Raises `UserError`, with the title and the reason, if it fails.
    """
    with TemporaryDirectory(prefix="layerprune-") as place:
        arguments, out = Path(place, "settings.json"), Path(place, "out.pt")
        arguments.write_text(json.dumps(settings), encoding="utf-8")
        process = subprocess.run(
            [sys.executable, "-P", *program, str(target.resolve()), str(arguments), str(out)],
            cwd=place,
            capture_output=True,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
        if process.returncode:
            lines = process.stderr.strip().splitlines() or ["no error message"]
            found = [match[1] for line in lines if (match := REASON.search(line))]
            raise UserError(f"{title}: {(found or lines)[0 if found else -1]}")
        results: dict[str, Any] = torch.load(out)
        return results
