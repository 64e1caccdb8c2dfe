"""Cut a model's GGUF file: remove layers without touching the bytes of the remaining tensors.

How it works:
1. Metadata is copied. The number of layers changes, and each list with one entry per layer keeps
   the entries of the remaining layers.
2. Tensors `blk.N.*` of removed layers are left out, and later layers are renumbered. All bytes
   are copied from the memory map, in the quantisation that they have.
3. llama.cpp derives some settings of a layer from its index. They are written down where llama.cpp
   reads them (the pattern of sliding windows), and the export is refused where it does not.

Read in llama.cpp's src/models/*.cpp (`load_arch_hparams`) and src/llama-model.cpp.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from numpy.typing import NDArray

from layerprune.config.schema import ExportConfig
from layerprune.errors import UserError, explained
from layerprune.model.gguf_reader import FastGGUFReader, field_value, refuse_incomplete
from layerprune.model.source import Source

SLIDING_PERIODS = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2}
"""Architectures of which llama.cpp makes every n-th layer one with full attention, and n."""

DEFAULT_WINDOWS = {"gemma2": 4096}
"""Windows of files that name none, in tokens."""

UNIFORM = frozenset({
    "llama", "phi3", "qwen2", "qwen2moe", "qwen3", "qwen3moe",
})  # fmt: skip
"""Architectures of which llama.cpp derives nothing from a layer's index."""

BY_POSITION = (
    "attention.shared_kv_layers", "full_attention_interval", "interleave_moe_layer_step",
    "leading_dense_block_count", "moe_every_n_layers", "nextn_predict_layers",
    "rescale_every_n_layers",
)  # fmt: skip
"""Fields that tie layers to their positions unless they are zero."""

LARGEST = {"gemma2": 46, "gemma3": 62}
"""Numbers of layers by which llama.cpp recognises models with another attention scale."""

PATTERN = "attention.sliding_window_pattern"

NOT_BY_LAYER = ("rope.dimension_sections",)
"""Lists whose length may equal the number of layers by chance."""

BLOCK = re.compile(r"blk\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Field:
    """A metadata field of a GGUF file."""

    value: Any
    type: GGUFValueType
    item_type: GGUFValueType | None = None


@dataclass(frozen=True)
class NewTensor:
    """A tensor that takes the place of the dense model's."""

    data: NDArray[Any]
    """As it is stored: blocks of bytes, or numbers."""
    type: GGMLQuantizationType


def dense_gguf(source: Source, form: ExportConfig) -> tuple[Path, GGUFReader]:
    """Return the file to cut and its reader. Raises `UserError` if none can be cut."""
    if form.gguf_from is None:
        if source.gguf is None:
            raise UserError(
                f"export=gguf: {source.name} was not loaded from a GGUF file. Name the dense "
                "model's by export.gguf_from=FILE, or use export=hf."
            )
        file = source.gguf
    else:
        file = Path(form.gguf_from).expanduser()
        if not file.is_file():
            raise UserError(f"export.gguf_from={form.gguf_from}: there is no such file.")
    reader = open_gguf(file)
    _refuse_file(reader, file)
    return file, reader


def open_gguf(file: Path) -> GGUFReader:
    """Return a reader of a file, memory-mapped. Raises `UserError` if it is no GGUF file."""
    with explained(f"export=gguf: {file} cannot be read"):
        return FastGGUFReader(file)


def architecture(reader: GGUFReader) -> str:
    """Return `general.architecture`, the prefix of the fields that describe a model."""
    return str(field_value(reader, "general.architecture", ""))


def setting(reader: GGUFReader, name: str, default: Any = None) -> Any:
    """Return a field of the architecture, without its prefix."""
    return field_value(reader, f"{architecture(reader)}.{name}", default)


def file_stem(name: str, kept: int, count: int) -> str:
    """Return the name of the file of a pruned model, without `.gguf`."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name.removesuffix(".gguf")).strip(".-") or "model"
    return f"{plain}-{kept}-of-{count}-layers"


def write_cut(
    reader: GGUFReader,
    removed: Sequence[int],
    name: str,
    path: Path,
    new_tensors: Mapping[str, NewTensor],
) -> None:
    """Write a GGUF file without the layers `removed`, under the name `name`.

    `new_tensors` take the place of the dense model's, by the names that these have. Raises
    `UserError` if no metadata makes llama.cpp compute what remains.
    """
    count = int(setting(reader, "block_count"))
    kept = [layer for layer in range(count) if layer not in removed]
    writer = GGUFWriter(path, architecture(reader), endianess=reader.endianess)
    for key, field in cut_fields(reader, kept, name).items():
        if key == "general.alignment":
            writer.add_custom_alignment(field.value)
        else:
            writer.add_key_value(key, field.value, field.type, field.item_type)
    tensors = [
        (new_name, new_tensors.get(tensor.name) or NewTensor(tensor.data, tensor.tensor_type))
        for tensor in reader.tensors
        if (new_name := renamed(tensor.name, kept)) is not None
    ]
    for new_name, tensor in tensors:
        data = tensor.data
        writer.add_tensor_info(new_name, data.shape, data.dtype, data.nbytes, tensor.type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, tensor in tensors:
        writer.write_tensor_data(tensor.data, reader.endianess)
    writer.close()


def renamed(name: str, kept: Sequence[int]) -> str | None:
    """Return a tensor's name in the pruned model; None if its layer is removed."""
    block = BLOCK.fullmatch(name)
    if block is None:
        return name
    layer = int(block[1])
    return f"blk.{kept.index(layer)}.{block[2]}" if layer in kept else None


def cut_fields(reader: GGUFReader, kept: Sequence[int], name: str) -> dict[str, Field]:
    """Return the metadata of the pruned model. Raises `UserError` if none describes it."""
    prefix = architecture(reader)
    count = int(setting(reader, "block_count"))
    fields = {
        key: field for key, field in _fields(reader) if not key.startswith(("GGUF.", "split."))
    }
    del fields["general.architecture"]  # the writer's own
    fields["general.name"] = Field(name, GGUFValueType.STRING)
    if len(kept) == count:
        return fields
    _refuse_positions(reader, len(kept))
    for key, field in fields.items():
        of_model = key.startswith(f"{prefix}.") and key[len(prefix) + 1 :] not in NOT_BY_LAYER
        if of_model and field.type is GGUFValueType.ARRAY and len(field.value) == count:
            values = [field.value[layer] for layer in kept]
            fields[key] = Field(values, field.type, field.item_type)
    fields[f"{prefix}.block_count"] = Field(len(kept), fields[f"{prefix}.block_count"].type)
    pattern = _pattern(reader, kept)
    if pattern is not None:
        fields[f"{prefix}.{PATTERN}"] = pattern
    return fields


def sliding_layers(reader: GGUFReader) -> list[bool] | None:
    """Return for each layer if it has a sliding window; None if the file's layers are alike."""
    period = SLIDING_PERIODS.get(architecture(reader))
    default = DEFAULT_WINDOWS.get(architecture(reader), 0)
    if period is None or not setting(reader, "attention.sliding_window", default):
        return None
    given = setting(reader, PATTERN, period)
    if isinstance(given, list):
        return [bool(sliding) for sliding in given]
    return _sliding(int(given), int(setting(reader, "block_count")))


def _sliding(period: int, count: int) -> list[bool]:
    """Return the pattern that llama.cpp makes of a period (`llama_hparams::set_swa_pattern`)."""
    return [period == 0 or layer % period < period - 1 for layer in range(count)]


def _pattern(reader: GGUFReader, kept: Sequence[int]) -> Field | None:
    """Return the field with the pattern of the remaining layers, if the file needs one.

    A number is the period. llama.cpp reads lists for these architectures from b11375 (October 2026)
    at the latest. Older releases ignore lists, and still older ones numbers, so no field is written
    where llama.cpp's own period is the right one.
    """
    before = sliding_layers(reader)
    if before is None or isinstance(setting(reader, PATTERN), list):
        return None
    after = [before[layer] for layer in kept]
    own = int(setting(reader, PATTERN, SLIDING_PERIODS[architecture(reader)]))
    for period in (own, *range(len(kept) + 1)):
        if _sliding(period, len(kept)) == after:
            unchanged = period == own and setting(reader, PATTERN) is None
            return None if unchanged else Field(period, GGUFValueType.UINT32)
    return Field(after, GGUFValueType.ARRAY, GGUFValueType.BOOL)


def _refuse_file(reader: GGUFReader, file: Path) -> None:
    """Raise `UserError` for a part of a model, or a model whose layers depend on their index."""
    refuse_incomplete(reader, file, "export=gguf")
    known = architecture(reader)
    if known not in UNIFORM and known not in SLIDING_PERIODS:
        raise UserError(
            f"export=gguf: {file} is a {known or 'model of no architecture'}, and we have not "
            "checked that llama.cpp runs one without some of its layers. Use export=hf."
        )


def _refuse_positions(reader: GGUFReader, remaining: int) -> None:
    """Raise `UserError` for settings that llama.cpp derives from the position of a layer."""
    known, count = architecture(reader), int(setting(reader, "block_count"))
    for name in BY_POSITION:
        if setting(reader, name, 0):
            raise UserError(
                f"export=gguf: {known}.{name} ties layers to their positions, which a GGUF file "
                "cannot say of a pruned model. Use export=hf."
            )
    if LARGEST.get(known) in (count, remaining):
        width = setting(reader, "embedding_length") / setting(reader, "attention.head_count")
        if width != setting(reader, "attention.key_length", width):
            raise UserError(
                f"export=gguf: llama.cpp knows the attention scale of this {known} by its "
                f"{LARGEST[known]} layers. Use export=hf."
            )


def _fields(reader: GGUFReader) -> Iterator[tuple[str, Field]]:
    for key, field in reader.fields.items():
        kind = field.types[0]
        if kind is GGUFValueType.ARRAY and not field.data:
            continue  # gguf cannot write an empty list, and its readers take a missing one for it
        item_type = field.types[-1] if kind is GGUFValueType.ARRAY else None
        yield key, Field(field.contents(), kind, item_type)
