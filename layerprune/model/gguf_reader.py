"""Read the header of a GGUF file fast: its vocabulary is most of it.

`gguf.GGUFReader` reads an array value by value, each through a memory map: 35 s for the 262,144
tokens, scores and types of Gemma 3, where one walk over the bytes takes 0.7 s.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gguf
import numpy as np
from gguf import GGUFReader, GGUFValueType

from layerprune.errors import UserError

ITEM_TYPE_BYTES, COUNT_BYTES, LENGTH_BYTES = 4, 8, 8
"""Sizes of the fields before an array's items, and of the length before a string."""


class FastGGUFReader(GGUFReader):
    """A reader with the fields and tensors of `GGUFReader`, item for item."""

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[Any], list[int], list[GGUFValueType]]:
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        item_type = self._get(orig_offs, np.uint32)
        length = self._get(orig_offs + ITEM_TYPE_BYTES, np.uint64)
        count, kind = int(length[0]), GGUFValueType(item_type[0])
        offset = orig_offs + ITEM_TYPE_BYTES + COUNT_BYTES
        parts: list[Any] = [item_type, length]
        if kind in self.gguf_scalar_to_np:
            values = np.asarray(self._get(offset, self.gguf_scalar_to_np[kind], count))
            parts.extend(values.reshape(-1, 1))
            offset += values.nbytes
            positions = range(2, 2 + count)
        elif kind is GGUFValueType.STRING:
            data: Any = np.asarray(self.data)
            lengths = struct.Struct(">Q" if self.endianess is gguf.GGUFEndian.BIG else "<Q")
            for _ in range(count):
                start = offset + LENGTH_BYTES
                (size,) = lengths.unpack_from(data, offset)
                parts += data[offset:start], data[start : start + size]
                offset = start + size
            positions = range(3, 2 + 2 * count, 2)
        else:
            return super()._get_field_parts(orig_offs, raw_type)
        types = [GGUFValueType.ARRAY, kind] if count else [GGUFValueType.ARRAY]
        return offset - orig_offs, parts, list(positions), types


def field_value(reader: GGUFReader, key: str, default: Any = None) -> Any:
    """Return the value of a metadata field."""
    return reader.fields[key].contents() if key in reader.fields else default


def refuse_incomplete(reader: GGUFReader, file: Path, option: str) -> None:
    """Raise `UserError`, which begins with `option`, unless a file holds a complete model."""
    parts = field_value(reader, "split.count", 1)
    kind = field_value(reader, "general.type", "model")
    if parts > 1:
        raise UserError(
            f"{option}: {file} is one of {parts} files of a split model, and the weights in the "
            "others are missing. Merge them: llama-gguf-split --merge FIRST OUT, and use OUT."
        )
    if kind != "model":
        raise UserError(
            f"{option}: {file} holds no complete language model: its general.type is {kind}."
        )


@contextmanager
def fast_headers() -> Iterator[None]:
    """Let transformers read a header fast within the block, and once; it asks three times.

    It also asks for the names of an architecture's tensors once per module (313 times), which
    builds the table of all names each time.
    """
    with (
        patch.object(gguf, "GGUFReader", cache(FastGGUFReader)),
        patch.object(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map)),
    ):
        yield
