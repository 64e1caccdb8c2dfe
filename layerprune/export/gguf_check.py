"""Compare a GGUF file with the model that was measured: in transformers, and in llama.cpp."""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from layerprune.config.schema import Dtype
from layerprune.errors import UserError
from layerprune.export import verification
from layerprune.export.gguf_weights import replace_weights
from layerprune.export.verification import EXACT, logits_of, measured_model, relative_distance
from layerprune.model.load import LoadedModel
from layerprune.model.source import Source
from layerprune.record.point import Point

LLAMA_CPP = "xllamacpp"
"""The package with llama.cpp."""

PREFIXES = (
    "The capital of France is",
    "Question: What is the chemical symbol for gold?\nAnswer:",
    "Water boils at a temperature of",
    "def fibonacci(n):\n    if n < 2:\n        return",
    "Once upon a time, in a small village by the sea, there lived",
    "The first president of the United States was",
    "1, 2, 3, 4, 5, 6,",
    "Le chat est assis sur la",
    "To make bread you need flour, water, salt and",
    "The largest planet of the solar system is",
    "She opened the door, looked around the room, and",
    "import numpy as np\n\nx = np.",
    "In 1969, the first human being walked on the",
    "Dear Sir or Madam,\n\nI am writing to",
    "The opposite of hot is",
    "Translate to German: Good morning! ->",
)
"""Texts whose next token is compared; all of them joined are another one."""

LONGEST_PREFIX = 256
"""Tokens of the longest prefix."""

LIKELIEST = 5
"""Tokens whose log-probabilities are compared after each prefix."""

QUANTIZED = 0.5
"""Relative distance of the logits that quantisation may cause; unrelated logits have 1.4."""

ROUNDED_BLOCK, ROUNDED_LEVELS = 32, 127
"""llama.cpp rounds the inputs of quantised matrices: 32 values share a scale, and have 8 bits."""

TIMES_ROUNDING, SPARE_NATS = 3.0, 0.05
"""Mean difference of log-probabilities that is accepted of llama.cpp: so many times the one that
such rounding causes in transformers, and so many nats more.

Measured: 0.8 to 2.0 times, over cuts of SmolLM2 135M (Q4_1) and Gemma 3 270M (Q4_K_M) by up to half
of the layers. Where a neighbouring layer was removed instead, it was 7 to 40 times."""


@dataclass(frozen=True)
class GGUFCheck:
    """The comparison of a GGUF file with the measured model."""

    logits: float
    """Relative distance of transformers' logits on the file from the logits of the same weights."""
    quantization: float
    """Relative distance of logits that quantising weights causes; 0 without."""
    layers_by_config: bool
    """True if transformers needs the pruned model's configuration to read the file as it is."""
    llama_cpp: dict[str, Any] | None
    """Version, prefixes, same likeliest tokens, and mean differences of log-probabilities in nats:
    llama.cpp's, and what rounding causes in transformers. None if llama.cpp is not installed."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields, for the manifest."""
        return asdict(self)


def verify_gguf(
    source: Source,
    point: Point,
    changes: Path | None,
    file: Path,
    values: Mapping[str, Tensor],
) -> GGUFCheck:
    """Compare the file with the measured model; raise `UserError` if it is another one.

    `values` are the weights that the file holds in another precision than they were measured in.
    """
    dtype = Dtype(point.identity["model"]["dtype"])
    loaded = measured_model(source, point, changes, dtype)
    ids_1T = verification.random_ids(loaded)
    measured = expected = logits_of(loaded, ids_1T)
    if values:
        replace_weights(loaded.model, values)
        expected = logits_of(loaded, ids_1T)
    quantization = relative_distance(expected, measured)
    if not quantization <= QUANTIZED:
        raise UserError(
            f"export=gguf: in the types of the GGUF file, the logits of {point.key} are "
            f"{quantization:.0%} off the measured model's. Use export.gguf_type=q8_0."
        )
    error, by_config = _in_transformers(loaded, ids_1T, expected, dtype, file, point)
    return GGUFCheck(error, quantization, by_config, _in_llama_cpp(source, loaded, file, point))


def _in_transformers(
    loaded: LoadedModel, ids_1T: Tensor, expected: Tensor, dtype: Dtype, file: Path, point: Point
) -> tuple[float, bool]:
    """Return the distance of the logits, and True if the file alone does not tell the layers.

    transformers reads no pattern of sliding windows from a GGUF file.
    """
    kinds = getattr(loaded.model.config, "layer_types", None)
    with TemporaryDirectory(prefix="layerprune-") as folder:
        loaded.model.config.save_pretrained(folder)
        settings = {
            "ids": ids_1T[0].tolist(),
            "dtype": dtype.value,
            "threads": torch.get_num_threads(),
        }
        for config in (None, folder):
            reopened = verification.gguf_reopened_elsewhere(file, settings | {"config": config})
            error = relative_distance(reopened["logits"], expected)
            same_layers = config is not None or reopened["layer_types"] == kinds
            if same_layers and not reopened["missing"] and error <= EXACT:
                return error, config is not None
    problem = f"gives logits that are {error:.1%} off"
    if reopened["missing"]:
        problem = f"lacks weights, as {reopened['missing'][0]}"
    raise UserError(
        f"export=gguf: opened by transformers in a fresh process, the file of {point.key} "
        f"{problem}. It was removed; use export=hf."
    )


def _in_llama_cpp(
    source: Source, loaded: LoadedModel, file: Path, point: Point
) -> dict[str, Any] | None:
    """Return the comparison of next tokens by both engines; None without llama.cpp."""
    if importlib.util.find_spec(LLAMA_CPP) is None:
        return None
    texts = (*PREFIXES, "\n".join(PREFIXES))
    longest = min(LONGEST_PREFIX, (source.context_length or LONGEST_PREFIX) - 1)
    prefixes = [loaded.tokenizer(text)["input_ids"][:longest] for text in texts]
    settings = {"prefixes": prefixes, "count": LIKELIEST, "threads": torch.get_num_threads()}
    answers = verification.run_elsewhere(
        ["-m", "layerprune.export.ask_llama_cpp"], file, settings,
        "export=gguf: llama.cpp cannot open the file",
    )  # fmt: skip
    prefixes, tokens_PK = [prefixes[index] for index in answers["answered"]], answers["tokens"]
    if not prefixes:
        raise UserError(
            f"export=gguf: llama.cpp opens the file of {point.key}, but gives no token with a "
            "probability. It was removed; use export=hf."
        )
    exact_PV = _next_logprobs(loaded, prefixes)
    with _rounded_inputs(loaded.model):
        rounded_PV = _next_logprobs(loaded, prefixes)
    exact_PK = exact_PV.gather(1, tokens_PK)
    difference = float((answers["logprobs"] - exact_PK).abs().mean())
    rounding = float((rounded_PV.gather(1, tokens_PK) - exact_PK).abs().mean())
    same = int((exact_PV.argmax(-1) == tokens_PK[:, 0]).sum())
    if not difference <= TIMES_ROUNDING * rounding + SPARE_NATS:
        raise UserError(
            f"export=gguf: llama.cpp opens the file of {point.key}, but computes another model: "
            f"log-probabilities are {difference:.2f} nats off transformers', where rounding "
            f"explains {rounding:.2f}. It was removed; use export=hf."
        )
    return {
        "version": f"{LLAMA_CPP} {version(LLAMA_CPP)}",
        "prefixes": len(prefixes),
        "same_tokens": same,
        "logprob_difference": difference,
        "rounding_difference": rounding,
    }


def _next_logprobs(loaded: LoadedModel, prefixes: Sequence[Sequence[int]]) -> Tensor:
    """Return log-probabilities [P, V] of the token after each prefix."""
    rows = [logits_of(loaded, torch.tensor([[*ids]]))[0, -1] for ids in prefixes]
    return torch.stack(rows).log_softmax(-1)


@contextmanager
def _rounded_inputs(model: nn.Module) -> Iterator[None]:
    """Round the inputs of linear layers inside the block, as llama.cpp does."""

    def rounded(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        first, *rest = arguments
        if first.shape[-1] % ROUNDED_BLOCK:
            return arguments
        blocks = first.unflatten(-1, (-1, ROUNDED_BLOCK))
        scale = blocks.abs().amax(-1, keepdim=True).clamp_min(1e-30) / ROUNDED_LEVELS
        return ((blocks / scale).round().mul(scale).flatten(-2), *rest)

    linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
    hooks = [part.register_forward_pre_hook(rounded) for part in linear]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
