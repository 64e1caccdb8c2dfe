"""A checkpoint without some of its layers, copied from file to file: no weight stays in memory.

Tensors of dropped layers are left out, those of layers above them get another number in their
names, and all others stay as they are. What else a name means is transformers' to know: it opens
what was written, without weights, before anyone else does.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from layerprune.config.schema import Dtype
from layerprune.errors import UserError
from layerprune.model.load import without_weights
from layerprune.model.precision import KINDS, precision, read_header
from layerprune.model.settings import forget_unknown
from layerprune.model.source import Source
from layerprune.model.stack import decoder_stack
from layerprune.model.surgery import drop_layers

CHUNK = 2**24
"""Bytes that are in memory at once."""

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
"""As transformers calls the only file, and what says which of several has which tensor."""

FLOATS = {name: getattr(torch, dtype.value) for name, dtype in KINDS.items()}
"""Numbers that may be written as others, by safetensors' names."""

NAMES = {dtype: name for name, dtype in FLOATS.items()}


@dataclass(frozen=True)
class Copy:
    """A tensor in a file, and what becomes of it."""

    file: Path
    start: int
    """Where its bytes begin."""
    size: int
    shape: tuple[int, ...]
    kind: str
    """Its numbers, as safetensors calls them: `BF16`, ..."""
    name: str
    """In the new file; `new_kind` and `new_size` likewise."""
    new_kind: str

    @property
    def new_size(self) -> int:
        """In bytes."""
        if self.new_kind == self.kind:
            return self.size
        return self.size // FLOATS[self.kind].itemsize * FLOATS[self.new_kind].itemsize


def write_without(
    source: Source, layers: Sequence[int], folder: Path, dtype: Dtype | None, shard: int
) -> bool:
    """Write the model in `source` without `layers` into `folder`, in files of `shard` bytes each.

    Numbers are those of most of the files, or `dtype`. False where the files are of a kind that is
    not copied: code of their own, pickles, numbers in few bits, layers that names do not tell
    apart, or what transformers does not open then. Nothing is written in that case. Raises what
    `drop_layers` does.
    """
    held = precision(source.folder)
    if source.own_code or source.pickled or held is None:
        return False
    model, unused = without_weights(source, held)
    tied = getattr(model, "all_tied_weights_keys", {})
    headers = {file: read_header(file) for file in _files(source.folder)}
    names = {name for header, _ in headers.values() for name in header}
    renamed = _renamer(model, names, source.num_layers, layers)
    if renamed is None:
        return False
    drop_layers(model, layers)
    if dtype is not None:
        model = model.to(getattr(torch, dtype.value))
    left_out = {*unused, *(name for name, other in tied.items() if other in names)}
    usual = NAMES[getattr(torch, (dtype or held).value)]
    kinds = {name: NAMES.get(each.dtype, usual) for name, each in model.state_dict().items()}
    copies = list(_copies(headers, left_out, renamed, kinds, usual))
    _describe(model, folder)
    _write_all(copies, folder, shard)
    if _opens(folder, dtype or held):
        return True
    for file in folder.iterdir():
        file.unlink()
    return False


def _files(folder: Path) -> list[Path]:
    """Those that transformers reads; others may lie beside them."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        return []
    places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    return [folder / name for name in sorted(set(places.values()))]


def _renamer(
    model: PreTrainedModel, names: set[str], num_layers: int, gone: Sequence[int]
) -> Callable[[str], str | None] | None:
    """What a tensor's name becomes, None if it goes; None where names do not tell layers apart."""
    layers = decoder_stack(model).layers
    path = next(name for name, part in model.named_modules() if part is layers).split(".")
    numbers: dict[str, set[int]] = {}
    for name in names:
        # Only the first number: those after it count what a layer has several of.
        found = re.match(r"((?:[^.]+\.)*?)(\d+)\.", name)
        if found:
            numbers.setdefault(found[1], set()).add(int(found[2]))
    # The way to the layers may go by other parts in files than in the model, but ends alike.
    alike = {
        start: len(set(start.split(".")) & set(path))
        for start, seen in numbers.items()
        if set(range(num_layers)) <= seen and start.split(".")[-2:-1] == path[-1:]
    }
    possible = [start for start, parts in alike.items() if parts == max(alike.values())]
    if len(possible) != 1:
        return None
    (start,) = possible
    kept = [layer for layer in range(num_layers) if layer not in gone]
    slots = {layer: slot for slot, layer in enumerate(kept)}

    def renamed(name: str) -> str | None:
        if not name.startswith(start):
            return name
        number, dot, rest = name.removeprefix(start).partition(".")
        if not (number.isdecimal() and dot):
            return name
        slot = slots.get(int(number))
        return None if slot is None else f"{start}{slot}.{rest}"

    return renamed


def _copies(
    headers: Mapping[Path, tuple[dict[str, Any], int]],
    left_out: set[str],
    renamed: Callable[[str], str | None],
    kinds: Mapping[str, str],
    usual: str,
) -> Iterator[Copy]:
    for file, (header, data) in headers.items():
        for name, tensor in header.items():
            new = None if name in left_out else renamed(name)
            if new is None:
                continue
            start, end = tensor["data_offsets"]
            kind = tensor["dtype"]
            yield Copy(
                file=file,
                start=data + start,
                size=end - start,
                shape=tuple(tensor["shape"]),
                kind=kind,
                name=new,
                new_kind=kinds.get(new, usual) if kind in FLOATS else kind,
            )


def _describe(model: PreTrainedModel, folder: Path) -> None:
    """The files beside the weights, as `save_pretrained` writes them."""
    config = model.config
    forget_unknown(config)
    config.architectures = [type(model).__name__]
    config.dtype = str(model.dtype).removeprefix("torch.")
    config.save_pretrained(folder)
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.save_pretrained(folder)


def _write_all(copies: Sequence[Copy], folder: Path, shard: int) -> None:
    files = list(_shards(copies, shard))
    if len(files) == 1:
        _write(files[0], folder / WEIGHTS)
        return
    places: dict[str, str] = {}
    for number, some in enumerate(files, start=1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        _write(some, folder / name)
        places |= {copy.name: name for copy in some}
    total = sum(copy.new_size for copy in copies)
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / INDEX).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _shards(copies: Sequence[Copy], shard: int) -> Iterator[list[Copy]]:
    some: list[Copy] = []
    size = 0
    for copy in copies:
        if some and size + copy.new_size > shard:
            yield some
            some, size = [], 0
        some.append(copy)
        size += copy.new_size
    yield some


def _write(copies: Sequence[Copy], path: Path) -> None:
    """One file of safetensors: eight bytes of length, JSON that names the tensors, the tensors."""
    # Wide numbers first: so each begins at a multiple of its width, as the format advises.
    ordered = sorted(copies, key=lambda copy: -_width(copy))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for copy in ordered:
        header[copy.name] = {
            "dtype": copy.new_kind,
            "shape": list(copy.shape),
            "data_offsets": [at, at + copy.new_size],
        }
        at += copy.new_size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little"))
        out.write(text)
        for copy in ordered:
            _append(copy, out)


def _append(copy: Copy, out: BinaryIO) -> None:
    with copy.file.open("rb") as file:
        file.seek(copy.start)
        left = copy.size
        while left:
            part = file.read(min(left, CHUNK))
            if not part:
                raise UserError(f"{copy.file}: it ends before the weights that it names.")
            left -= len(part)
            out.write(part if copy.new_kind == copy.kind else _converted(part, copy))


def _converted(part: bytes, copy: Copy) -> bytes:
    values: Tensor = torch.frombuffer(bytearray(part), dtype=FLOATS[copy.kind])
    return values.to(FLOATS[copy.new_kind]).view(torch.uint8).numpy().tobytes()


def _width(copy: Copy) -> int:
    count = 1
    for side in copy.shape:
        count *= side
    return copy.new_size // max(1, count)


def _opens(folder: Path, dtype: Dtype) -> bool:
    """Whether transformers misses no weight in what was written, and knows all."""
    opened: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype.value),
        device_map={"": "meta"},
        output_loading_info=True,
    )
    return not any(opened[1].values())
