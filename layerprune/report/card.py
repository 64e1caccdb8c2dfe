"""The model card of an exported checkpoint: what was dropped, what it costs, how to load it."""

from collections.abc import Sequence

from layerprune.config.schema import ExportConfig, Quantization, held_after
from layerprune.record.point import Point
from layerprune.report.entry import ranges

CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- layer-pruning
- layerprune
---

# {name} without {gone} of its {layers} layers

Decoder layers {dropped} (counted from 0) are dropped{healed}; {parameters:,} parameters stay.
It is a checkpoint like any other:

```python
{loading}
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```
{said}
## What it costs

{scores}

Accuracy comes with its standard error. Held-out loss: {nats:.3f} nats a token, {normalised:.3f} \
of guessing evenly.

{curve}

## How it was made

Layers were chosen by `prune={strategy}` with `metric={metric}`: {reason}. Asked and measured in \
{precision}; the weights here are in {on_disk}. `layerprune.json` has \
the plan, all scores and the versions of what was used ({versions}).

The method is that of Gromov et al., "The Unreasonable Ineffectiveness of the Deeper Layers" \
(arXiv 2403.17887). The license is that of the original model.
"""


LOADING = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")"""

LOADING_IN_FEW_BITS = """from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
)

quantization = BitsAndBytesConfig({arguments})
model = AutoModelForCausalLM.from_pretrained("FOLDER", quantization_config=quantization)"""

BITS = {
    Quantization.nf4: (
        'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True'
    ),
    Quantization.int8: "load_in_8bit=True",
}
"""Arguments of transformers' `BitsAndBytesConfig`."""


def card(
    point: Point, curve: Sequence[Point], form: ExportConfig | None = None, said: str = ""
) -> str:
    """Markdown with the numbers of `point`, and of the other points of its curve.

    `form` is that of the weights, and the one that they are meant to be loaded in; `said` is a
    paragraph of its own.
    """
    form = form or ExportConfig(format="hf")
    loading = LOADING
    if form.quantization is not None:
        loading = LOADING_IN_FEW_BITS.format(arguments=BITS[form.quantization])
    versions = point.provenance["versions"]
    return CARD.format(
        name=point.model["name"],
        gone=point.num_dropped,
        layers=point.plan["num_layers"],
        dropped=ranges(point.plan["dropped"]),
        healed=_healed(point),
        parameters=point.model["parameters_kept"],
        loading=loading,
        said=f"\n{said}\n" if said else "",
        on_disk="the precision of the original files" if form.dtype is None else form.dtype.value,
        scores=_scores(point),
        nats=point.loss["nats"],
        normalised=point.loss["normalised"],
        curve=_curve(point, curve),
        strategy=point.plan["strategy"],
        metric=point.plan["metric"],
        reason=point.plan["reason"],
        precision=_precision(point),
        versions=", ".join(f"{name} {versions[name]}" for name in ("layerprune", "transformers")),
    )


def _precision(point: Point) -> str:
    model = point.identity["model"]
    before = Quantization(model["quantization"]) if "quantization" in model else None
    held = held_after(point.healing["recipe"] if point.healing else "none", before)
    said = str(model["dtype"])
    return f"{said} with weights in {held.value}" if held else said


def _healed(point: Point) -> str:
    if point.healing is None:
        return ", and nothing was trained after that"
    steps = point.healing["steps"][-1]["step"]
    return f", and what is left was healed with `heal={point.healing['recipe']}` ({steps} steps)"


def _scores(point: Point) -> str:
    rows = [
        (score["task"], name, _value(measure), _chance(score),
         str(score["num_fewshot"]), str(score["num_samples"]))
        for score in point.scores
        if score["parent"] is None
        for name, measure in score["measures"].items()
    ]  # fmt: skip
    head = "| task | measure | value | guessing | shots | questions |\n|:--|:--|--:|--:|--:|--:|"
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in rows)])


def _curve(point: Point, curve: Sequence[Point]) -> str:
    """The first measure of the first task at every depth."""
    others = sorted({each.num_dropped: each for each in (*curve, point)}.items())
    if len(others) < 2 or not point.scores:
        return "No other depth was measured with it."
    task = point.scores[0]["task"]
    name = next(iter(point.scores[0]["measures"]))
    rows = [
        f"| {count} | {each.plan['fraction']:.3f} | {_value(score['measures'][name])} "
        f"| {each.loss['nats']:.3f} |"
        for count, each in others
        for score in each.scores
        if score["task"] == task
    ]
    head = f"| layers dropped | fraction | {task}: {name} | loss, nats |\n|--:|--:|--:|--:|"
    return "\n".join(["The curve that it is a point of:", "", head, *rows])


def _value(measure: dict[str, float | None]) -> str:
    stderr = measure["stderr"]
    return f"{measure['value']:.3f}" + ("" if stderr is None else f" ± {stderr:.3f}")


def _chance(score: dict[str, float | None]) -> str:
    return "" if score["chance"] is None else f"{score['chance']:.3f}"
