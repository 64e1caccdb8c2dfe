"""Which model, and how it is loaded."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from layerprune.errors import UserError


class Dtype(Enum):
    """Precision in which the weights are held."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Quantization(Enum):
    """Form in which the weights of linear layers are held, but for the head: bitsandbytes'."""

    nf4 = "nf4"
    int8 = "int8"


@dataclass(kw_only=True, slots=True)
class HealingFacts:
    """How one model is healed: Gromov et al., appendix A.1 and B.3, where the paper has it.

    The defaults are the paper's for a model of up to 7 billion parameters, before any sweep.
    """

    steps: int = 5000
    """Optimiser steps."""
    batch_size: int = 16
    """Sequences in each step."""
    warmup_steps: int = 100
    """The first steps, over which the learning rate rises."""
    sequence_length: int = 2048
    """Tokens in each sequence."""
    learning_rate: float = 3e-4
    """Peak for low-rank updates."""
    weights_learning_rate: float = 2e-5
    """Peak where weights themselves are trained. The paper does not do that: the usual rate of
    fine-tuning a model of some billion parameters."""
    rank: int = 64
    """Of low-rank updates."""
    targets: list[str] | None = None
    """Ends of the names of the modules that they change; all feed-forward projections if null."""


@dataclass(kw_only=True, slots=True)
class ShapeFacts:
    """Sizes of a model, as its `config.json` names them: a dry run needs none of its files then."""

    num_hidden_layers: int = MISSING
    """Number of layers."""
    hidden_size: int = MISSING
    """Width of a state."""
    intermediate_size: int = MISSING
    """Width between the feed-forward projections."""
    num_attention_heads: int = MISSING
    """Heads of queries."""
    num_key_value_heads: int = MISSING
    """Heads of keys and values."""
    vocab_size: int = MISSING
    """Tokens that the model tells apart."""
    gated: bool = True
    """Whether a feed-forward part has three projections, not two."""


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """Which model to cut, and how to load it."""

    path: str = MISSING
    """A hub id, a folder, a GGUF file, or `package:NAME/FILE` for a GGUF file in a package."""
    name: str | None = None
    """Label in tables and figures; the last part of `path` if not given."""
    family: str | None = None
    """Curves are compared by family; the architecture's model type if not given."""
    made_by: str | None = None
    """The command that makes the folder, for whoever has no such folder yet."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Dtype = Dtype.float32
    """Precision in which the weights are held while the model is measured, cut and asked."""
    quantization: Quantization | None = None
    """Hold the weights of linear layers in 4 or 8 bits, and compute with them in `dtype`."""
    pickled_weights: bool = False
    """Read PyTorch's `pytorch_model*.bin` where there are no safetensors: as data, no code in them
    is run."""
    trust_remote_code: bool = False
    """Run the code that comes with a model's files where transformers does not know its type."""
    healing: HealingFacts = field(default_factory=HealingFacts)
    """What recipes take from the model, where they are not told otherwise."""
    shape: ShapeFacts | None = None
    """For `dry_run=true` on a machine that does not have the model; a run reads its files."""

    def __post_init__(self) -> None:
        if not self.path.strip():
            raise UserError("model.path is empty: give a hub id, a folder or package:NAME/FILE.")
