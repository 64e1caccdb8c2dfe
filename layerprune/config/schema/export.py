"""In which form a smaller model is kept."""

from dataclasses import dataclass

from omegaconf import MISSING

from layerprune.config.schema.model import Dtype, Quantization


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """In which form the pruned model is kept."""

    format: str = MISSING
    """`none`, or `hf`: a folder that transformers loads."""
    dtype: Dtype | None = None
    """Precision of the weights on disk; that of the original files if not given."""
    quantization: Quantization | None = None
    """Form in which the checkpoint is meant to be loaded: its card says how, and `fit.memory`
    counts with it. The weights on disk are not quantised."""
