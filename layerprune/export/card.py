"""The model card of an exported checkpoint: layers removed, scores, and how to load it."""

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from jinja2 import StrictUndefined, Template

from layerprune.config.registry import quantization_after
from layerprune.config.schema import ExportConfig, Quantization
from layerprune.export.gguf_export import GGUFExport
from layerprune.record.point import Point, layer_ranges

BITS = {
    Quantization.nf4: (
        'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True'
    ),
    Quantization.int8: "load_in_8bit=True",
}
"""Arguments of transformers' `BitsAndBytesConfig`."""


def card(
    point: Point,
    curve: Sequence[Point],
    form: ExportConfig,
    note: str,
    config_version: str,
    gguf: GGUFExport | None = None,
) -> str:
    """Return Markdown with the numbers of `point` and of the other points of its curve.

    `form` is the form of the weights, and the one to load them in; `note` is a paragraph of text,
    and `config_version` the version of transformers whose form the configuration has. `gguf` is the
    file, if that is what was written.
    """
    by_depth = {other.num_dropped: other for other in (*curve, point)}
    text = Path(__file__).with_name("model_card.md.jinja").read_text(encoding="utf-8")
    template = Template(
        text, trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    return template.render(
        point=point,
        layers=layer_ranges(point.plan.dropped),
        quantization=None if form.quantization is None else BITS[form.quantization],
        note=note,
        config_version=config_version,
        needs_5=config_version.startswith("5."),
        opened_by=version("transformers"),
        curve=[by_depth[count] for count in sorted(by_depth)],
        precision=_precision(point),
        stored="the precision of the original files" if form.dtype is None else form.dtype.value,
        gguf=gguf,
        quantized=Counter(gguf.quantized.values()) if gguf else None,
    )


def _precision(point: Point) -> str:
    model = point.identity["model"]
    before = Quantization(model["quantization"]) if "quantization" in model else None
    quantization = quantization_after(point.recipe, before)
    dtype = str(model["dtype"])
    return f"{dtype} with weights in {quantization.value}" if quantization else dtype
