"""Find a model's weights in its GGUF file, and quantise those that healing changed.

llama.cpp's converter stores some weights in another layout than transformers: it permutes the rows
of llama's queries and keys, and adds 1 to Gemma's norms. The layout of a tensor is the one in which
the dense model's weight equals the tensor in the dense GGUF file, up to its quantisation.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, dequantize, quantize
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)

from layerprune.config.schema import GGUFType
from layerprune.errors import UserError
from layerprune.export.gguf import BLOCK, NewTensor, architecture, setting
from layerprune.model.gguf_reader import fast_headers

WRITABLE = tuple(GGMLQuantizationType[kind.name.upper()] for kind in GGUFType)

INSTEAD = GGMLQuantizationType.Q8_0
"""The type of changed tensors whose own type the gguf package cannot write."""

PLAIN = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)

SAME_PLAIN, SAME_QUANTIZED = 0.01, 0.35
"""Relative distance up to which a tensor holds a weight: in 16 bits or more, and in fewer.

Two bits are off by about 0.3; another layout, or another model's weight, by 1 or more.
"""

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Layout:
    """The arrangement of a weight's values in a GGUF file."""

    to_gguf: Callable[[Values], Values]
    to_model: Callable[[Values], Values]


@dataclass
class ChangedWeights:
    """The weights of a model as a GGUF file will hold them."""

    tensors: dict[str, NewTensor] = field(default_factory=dict)
    """Tensors that differ from the dense file's, by the names that these have."""
    values: dict[str, Tensor] = field(default_factory=dict)
    """The values that will be read back, by transformers' names."""
    instead: dict[str, str] = field(default_factory=dict)
    """Types that cannot be written, and those that take their place."""

    @property
    def types(self) -> dict[str, str]:
        """The type of each changed tensor."""
        return {name: tensor.type.name for name, tensor in self.tensors.items()}


def changed_weights(
    reader: GGUFReader,
    kept: Sequence[int],
    before: PreTrainedModel,
    after: PreTrainedModel,
    wanted: GGUFType | None,
    compare_all: bool,
) -> ChangedWeights:
    """Return the weights that differ in two pruned models, in the form of the dense GGUF file.

    `before` is the model without its healing. With `compare_all` all other values are read from
    the file as well, and must equal those in `before` up to quantisation. Raises `UserError` if the
    file has no tensor for a weight, or has it in a layout that is not known.
    """
    stored = {tensor.name: tensor for tensor in reader.tensors}
    names = _gguf_names(reader, kept, after)
    old, result = before.state_dict(), ChangedWeights()
    for name, weight in after.state_dict().items():
        changed = not torch.equal(weight, old[name])
        if not changed and not compare_all:
            continue
        found = [other for other in names.get(name, ()) if other in stored]
        if len(found) != 1:
            if _is_tied(after, name) or not changed:
                continue
            raise UserError(
                f"export=gguf: healing changed {name}, and the GGUF file has "
                f"{len(found) or 'no'} tensors for it. Use export=hf."
            )
        tensor = stored[found[0]]
        data: Any = tensor.data
        value, kind = dequantize(data, tensor.tensor_type), tensor.tensor_type
        layout = _layout(reader, _array(old[name]), value, kind)
        if layout is None:
            raise UserError(
                f"export=gguf: {tensor.name} in the GGUF file is not {name} of the dense model in "
                "any layout that is known. Name that model's file by export.gguf_from=FILE, or use "
                "export=hf."
            )
        if changed:
            new = layout.to_gguf(_array(weight)).reshape(value.shape)
            chosen = _chosen_type(kind, wanted, new.shape)
            if wanted is None and chosen is not kind:
                result.instead[kind.name] = chosen.name
            data = quantize(np.ascontiguousarray(new), chosen)
            result.tensors[tensor.name] = NewTensor(data, chosen)
            value = dequantize(data, chosen)
        shown = layout.to_model(value.reshape(layout.to_gguf(_array(weight)).shape))
        result.values[name] = torch.from_numpy(shown.copy())
    return result


def replace_weights(model: PreTrainedModel, values: Mapping[str, Tensor]) -> None:
    """Set weights of a model, in its own precision."""
    weights = model.state_dict()
    for name, value in values.items():
        weights[name].copy_(value)


def _gguf_names(
    reader: GGUFReader, kept: Sequence[int], model: PreTrainedModel
) -> dict[str, list[str]]:
    """Return the tensors of each weight of a pruned model, by their names in the dense file."""
    processor = TENSOR_PROCESSORS.get(architecture(reader), TensorProcessor)()
    names: dict[str, list[str]] = {}
    with fast_headers():
        found = get_gguf_hf_weights_map(model, processor)
    for name, weight in found.items():
        block = BLOCK.fullmatch(name)
        dense = name if block is None else f"blk.{kept[int(block[1])]}.{block[2]}"
        names.setdefault(weight, []).append(dense)
    return names


def _is_tied(model: PreTrainedModel, name: str) -> bool:
    """Return True if a weight is another one's, which the file holds."""
    return name in getattr(model, "all_tied_weights_keys", {})


def _array(weight: Tensor) -> Values:
    values: Values = weight.detach().float().numpy()
    return values


def _layout(
    reader: GGUFReader, weight: Values, stored: Values, kind: GGMLQuantizationType
) -> Layout | None:
    """Return the layout in which a weight comes closest to a tensor; None if it is another one."""
    errors: dict[float, Layout] = {}
    for layout in _layouts(_head_counts(reader), weight):
        arranged = layout.to_gguf(weight)
        if np.squeeze(arranged).shape == np.squeeze(stored).shape:
            difference = np.squeeze(arranged) - np.squeeze(stored)
            size = float(np.linalg.norm(stored)) or 1.0
            errors.setdefault(float(np.linalg.norm(difference)) / size, layout)
    least = min(errors, default=np.inf)
    return errors[least] if least <= (SAME_PLAIN if kind in PLAIN else SAME_QUANTIZED) else None


def _layouts(head_counts: Iterable[int], weight: Values) -> Iterator[Layout]:
    """Yield all layouts that fit a weight's shape: as it is, shifted, transposed, permuted."""
    yield Layout(lambda values: values, lambda values: values)
    yield Layout(lambda values: values + 1, lambda values: values - 1)
    if weight.ndim == 2:
        yield Layout(np.transpose, np.transpose)
    for heads in head_counts:
        if len(weight) % (2 * heads) == 0:
            yield _permuted(heads, len(weight) // heads // 2)


def _permuted(heads: int, half: int) -> Layout:
    """Return the layout in which the halves of each head's rows are interleaved."""

    def to_gguf(values: Values) -> Values:
        split = values.reshape(heads, 2, half, *values.shape[1:])
        return split.swapaxes(1, 2).reshape(values.shape)

    def to_model(values: Values) -> Values:
        split = values.reshape(heads, half, 2, *values.shape[1:])
        return split.swapaxes(1, 2).reshape(values.shape)

    return Layout(to_gguf, to_model)


def _head_counts(reader: GGUFReader) -> list[int]:
    counts: set[int] = set()
    for name in ("attention.head_count", "attention.head_count_kv"):
        value = setting(reader, name, 0)
        counts |= {*value} if isinstance(value, list) else {value}
    return sorted(counts - {0})


def _chosen_type(
    kind: GGMLQuantizationType, wanted: GGUFType | None, shape: tuple[int, ...]
) -> GGMLQuantizationType:
    """Return the type in which a changed tensor is written."""
    if len(shape) == 1:  # norms and biases: llama.cpp computes with them as they are
        return kind
    chosen = GGMLQuantizationType[wanted.name.upper()] if wanted is not None else kind
    if chosen not in WRITABLE:
        chosen = INSTEAD
    block, _ = GGML_QUANT_SIZES[chosen]
    return GGMLQuantizationType.F16 if shape[-1] % block else chosen
