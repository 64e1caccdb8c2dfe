"""Copy a checkpoint without some of its layers, from file to file, in 16 MiB of memory.

How it works:
1. Tensors of removed layers are left out, tensors of later layers get the new layer's number in
   their name, and all others keep theirs.
2. Tensors are grouped into shards and copied in chunks, converted to another dtype if asked for.
3. transformers opens the result without weights: if it misses a weight or finds one that it does
   not know, the copy is discarded.

safetensors' `save_file` takes all tensors of a shard at once: to convert a 512 MiB shard to
bfloat16, it needs 770 MiB where chunks need 75 (`tests/model/test_shards.py` measures it).
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME as INDEX
from transformers.utils import SAFE_WEIGHTS_NAME as WEIGHTS

from layerprune.config.schema import Dtype
from layerprune.errors import UserError
from layerprune.model.config_files import untie, write_config
from layerprune.model.load import META, open_model
from layerprune.model.source import Source
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import drop_layers
from layerprune.model.weight_files import DTYPES, read_header, weights_dtype
from layerprune.runtime.atomic_files import write_json

CHUNK_BYTES = 2**24
"""Most bytes of weights in memory at once."""

TORCH_DTYPES = {name: getattr(torch, dtype.value) for name, dtype in DTYPES.items()}
"""Dtypes that may be converted into each other, by safetensors' names."""

SAFETENSORS_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}

Header = tuple[dict[str, Any], int]
"""Tensors of a file, and the offset of their bytes."""


@dataclass(frozen=True)
class TensorCopy:
    """The byte range of a tensor in a source file, and its dtype in the copy."""

    file: Path
    start: int
    size: int
    shape: tuple[int, ...]
    dtype: str
    """By safetensors' name: `BF16`, ..."""
    new_dtype: str

    @property
    def new_size(self) -> int:
        """Bytes in the new file."""
        if self.new_dtype == self.dtype:
            return self.size
        return (
            self.size // TORCH_DTYPES[self.dtype].itemsize * TORCH_DTYPES[self.new_dtype].itemsize
        )


def copy_without_layers(
    source: Source, layers: Sequence[int], folder: Path, dtype: Dtype | None, shard_bytes: int
) -> bool:
    """Write the model in `source` without `layers` into `folder`; return False if it cannot be.

    Weights get `dtype`, or the dtype of most of the source's. Nothing is written for models with
    remote code, pickles or quantised weights, if layers cannot be told apart by name, or if
    transformers does not open the copy. Raises the errors of `drop_layers`.
    """
    # Quantised weights are copied as they are.
    source_dtype = weights_dtype(source.folder) or (Dtype.bfloat16 if source.quantized_by else None)
    if source.remote_code or source.pickled or source_dtype is None:
        return False
    model, unused = open_model(source, source_dtype, META)
    tied = getattr(model, "all_tied_weights_keys", {})
    headers = {file: read_header(file) for file in _weight_files(source.folder)}
    names = {name for header, _ in headers.values() for name in header}
    rename = _renamer(model, names, source.num_layers, layers)
    if rename is None:
        return False
    drop_layers(model, layers)
    if dtype is not None:
        model = model.to(getattr(torch, dtype.value))
    left_out = {*unused}
    for name, other in tied.items():
        if {name, other} <= names and not _same(headers, name, other):
            untie(model)
        elif other in names:
            left_out.add(name)
    new_dtype = getattr(torch, (dtype or source_dtype).value)
    default = SAFETENSORS_NAMES[new_dtype]
    new_dtypes = {
        name: SAFETENSORS_NAMES.get(weight.dtype, default)
        for name, weight in model.state_dict().items()
    }
    copies: dict[str, TensorCopy] = {}
    for file, (header, data_start) in headers.items():
        for name, tensor in header.items():
            new_name = None if name in left_out else rename(name)
            if new_name is None:
                continue
            start, end = tensor["data_offsets"]
            old, shape = tensor["dtype"], tuple(tensor["shape"])
            converted = old in TORCH_DTYPES and not source.quantized_by
            new = new_dtypes.get(new_name, default) if converted else old
            copies[new_name] = TensorCopy(file, data_start + start, end - start, shape, old, new)
    write_config(source, model, folder)
    _write_shards(copies, folder, shard_bytes)
    if _opens(folder, new_dtype):
        return True
    for file in folder.iterdir():
        file.unlink()
    return False


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers reads; others may lie beside them."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        return []
    file_names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    return [folder / name for name in sorted(set(file_names))]


def _renamer(
    model: PreTrainedModel, names: set[str], num_layers: int, removed: Sequence[int]
) -> Callable[[str], str | None] | None:
    """Return a function from a tensor's name to its new name, or to None if it is removed.

    Returns None if the names do not tell layers apart.
    """
    layers = decoder_stack(model).layers
    path = next(name for name, part in model.named_modules() if part is layers).split(".")
    numbers: dict[str, set[int]] = {}
    for name in names:
        # Only the first number: later ones count parts of a layer, such as experts.
        match = re.match(r"((?:[^.]+\.)*?)(\d+)\.", name)
        if match:
            numbers.setdefault(match[1], set()).add(int(match[2]))
    # The path to the layers may differ between files and model, but its last part is the same.
    shared_parts = {
        prefix: len(set(prefix.split(".")) & set(path))
        for prefix, seen in numbers.items()
        if set(range(num_layers)) <= seen and prefix.split(".")[-2:-1] == path[-1:]
    }
    most = max(shared_parts.values(), default=0)
    prefixes = [prefix for prefix, count in shared_parts.items() if count == most]
    if len(prefixes) != 1:
        return None
    (prefix,) = prefixes
    kept = [layer for layer in range(num_layers) if layer not in removed]
    slots = {layer: slot for slot, layer in enumerate(kept)}

    def rename(name: str) -> str | None:
        if not name.startswith(prefix):
            return name
        number, dot, rest = name.removeprefix(prefix).partition(".")
        if not (number.isdecimal() and dot):
            return name
        slot = slots.get(int(number))
        return None if slot is None else f"{prefix}{slot}.{rest}"

    return rename


def _same(headers: Mapping[Path, Header], *names: str) -> bool:
    """Return True if tensors of these names have the same bytes."""
    contents = set()
    for file, (header, data_start) in headers.items():
        for name in header.keys() & set(names):
            start, end = header[name]["data_offsets"]
            digest = hashlib.sha256(str(header[name]["shape"]).encode())
            with file.open("rb") as content:
                content.seek(data_start + start)
                for left in range(end - start, 0, -CHUNK_BYTES):
                    digest.update(content.read(min(left, CHUNK_BYTES)))
            contents.add(digest.digest())
    return len(contents) == 1


def _write_shards(copies: dict[str, TensorCopy], folder: Path, shard_bytes: int) -> None:
    shards = split_state_dict_into_shards_factory(
        copies,
        get_storage_size=lambda copy: copy.new_size,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_bytes,
    )
    for file_name, names in shards.filename_to_tensors.items():
        _write_shard({name: copies[name] for name in names}, folder / file_name)
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        write_json(folder / INDEX, index)


def _write_shard(copies: dict[str, TensorCopy], path: Path) -> None:
    """Write a safetensors file: eight bytes of header length, the header as JSON, the tensors."""
    # Wide dtypes first, so that each tensor is aligned to its item size, as the format advises.
    ordered = sorted(
        copies.items(), key=lambda entry: -(entry[1].new_size // max(1, math.prod(entry[1].shape)))
    )
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, copy in ordered:
        header[name] = {
            "dtype": copy.new_dtype,
            "shape": list(copy.shape),
            "data_offsets": [offset, offset + copy.new_size],
        }
        offset += copy.new_size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little"))
        out.write(text)
        for _, copy in ordered:
            _append(copy, out)


def _append(copy: TensorCopy, out: BinaryIO) -> None:
    with copy.file.open("rb") as file:
        file.seek(copy.start)
        left = copy.size
        while left:
            chunk = file.read(min(left, CHUNK_BYTES))
            if not chunk:
                raise UserError(
                    f"{copy.file} is truncated: it ends before the weights that its header lists. "
                    "Download or copy the model again."
                )
            left -= len(chunk)
            out.write(chunk if copy.new_dtype == copy.dtype else _converted(chunk, copy))


def _converted(chunk: bytes, copy: TensorCopy) -> bytes:
    values = torch.frombuffer(bytearray(chunk), dtype=TORCH_DTYPES[copy.dtype])
    return values.to(TORCH_DTYPES[copy.new_dtype]).view(torch.uint8).numpy().tobytes()


def _opens(folder: Path, dtype: torch.dtype) -> bool:
    """Return True if transformers misses no weight in `folder`, and knows all."""
    opened: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, output_loading_info=True, **META
    )
    return not any(opened[1].values())
