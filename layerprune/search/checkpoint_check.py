"""Check a checkpoint: recorded answers in a fresh process, and samples of its text.

    python -m layerprune.search.checkpoint_check FOLDER < SETTINGS

is that process: it prints, as JSON, the answers of lm-eval's own backend to the questions that the
settings name.
"""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from layerprune.config.schema import Config, EvalConfig
from layerprune.errors import UserError
from layerprune.model.load import torch_device, without_word_cache
from layerprune.model.source import Source
from layerprune.record.point import Point
from layerprune.search.result import Sample

QUESTIONS = 40
"""Questions compared: the first ones of each task, in equal parts; fewer if there are fewer."""

NEW_TOKENS = 40
"""Length of a sample."""

REQUIRED = 0.95
"""Share of the answers that have to be identical. Rounding may turn a near tie where healed weights
are exported in lower precision."""


def verify(config: Config, point: Point, folder: Path, remote_code: bool) -> tuple[int, int]:
    """Return how many answers of a checkpoint are identical to its record, and of how many.

    Raises `UserError` if it cannot be loaded, or if too many differ although both are computed in
    the same precision.
    """
    recorded = {score.task: score.correct for score in point.scores if score.correct}
    if not recorded:
        return 0, 0
    limit = min(-(-QUESTIONS // len(recorded)), config.eval.limit or sys.maxsize)
    settings = {
        "eval": {**asdict(config.eval), "limit": limit},
        "dtype": config.model.dtype.value,
        "device": str(torch_device(config.runtime.device)),
        "remote_code": remote_code,
    }
    answers = _answer_in_fresh_process(folder, settings)
    pairs = [
        pair
        for task, digits in recorded.items()
        for pair in zip(answers.get(task, ""), digits, strict=False)
    ]
    same = sum(now == before for now, before in pairs)
    quantized = config.healed_quantization is not None
    if not pairs or (same < REQUIRED * len(pairs) and not quantized):
        raise UserError(
            f"export=hf: loaded by transformers in a fresh process, {folder} gives {same} of "
            f"{len(pairs)} recorded answers. It is not the model that was measured."
        )
    return same, len(pairs)


def _answer_in_fresh_process(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Return for each task a digit per question: 1 if it is answered correctly, else 0."""
    package = str(Path(__file__).resolve().parent.parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.run(
        [sys.executable, "-m", "layerprune.search.checkpoint_check", str(folder)],
        input=json.dumps(settings),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or ["no error message"])[-1]
        raise UserError(f"export=hf: {folder} cannot be loaded in a fresh process: {reason}")
    answers = json.loads(process.stdout.strip().splitlines()[-1])
    assert isinstance(answers, dict)
    return answers


def _answer(folder: str, settings: dict[str, Any]) -> dict[str, str]:
    from lm_eval.models.huggingface import HFLM

    from layerprune.evaluate.eval_tasks import EvalTasks

    options = {name: value for name, value in settings["eval"].items() if name != "speed"}
    lm = HFLM(
        pretrained=folder,
        dtype=settings["dtype"],
        device=settings["device"],
        batch_size=1,
        trust_remote_code=settings["remote_code"],
    )
    scores = EvalTasks(EvalConfig(**options)).score(lm)
    return {score.task: score.correct for score in scores if score.correct}


def write_samples(
    prompts: Sequence[str], dense: Source, chosen: Path, config: Config
) -> tuple[Sample, ...]:
    """Return a sample for each prompt. Only one of the two models is in memory at a time."""
    before, after = (
        _continuations(prompts, folder, dense.remote_code, config)
        for folder in (dense.folder, chosen)
    )
    return tuple(map(Sample, prompts, before, after))


def _continuations(
    prompts: Sequence[str], folder: Path, remote_code: bool, config: Config
) -> list[str]:
    tokenizer = without_word_cache(
        AutoTokenizer.from_pretrained(folder, trust_remote_code=remote_code)
    )
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, config.model.dtype.value), trust_remote_code=remote_code
    )
    model.to(torch_device(config.runtime.device))
    texts = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
        ids_BT = model.generate(
            **inputs,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
        )
        new_T = ids_BT[0, inputs["input_ids"].shape[1] :]
        texts.append(str(tokenizer.decode(new_T, skip_special_tokens=True)))
    del model
    gc.collect()
    return texts


if __name__ == "__main__":
    print(json.dumps(_answer(sys.argv[1], json.load(sys.stdin))))
