"""Read what a model's safetensors files say about its weights, without loading them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from layerprune.config.schema import Dtype

DTYPES = {"F32": Dtype.float32, "BF16": Dtype.bfloat16, "F16": Dtype.float16}
"""By the names of safetensors."""


def weights_dtype(folder: Path) -> Dtype | None:
    """Return the dtype of most bytes in a model's files; None unless it is in `DTYPES`.

    `config.json` may name another one: transformers follows it, and would round wider weights, and
    save narrower ones at twice their size.
    """
    bytes_by_dtype: Counter[str] = Counter()
    for file in folder.glob("*.safetensors"):
        for tensor in read_header(file)[0].values():
            start, end = tensor["data_offsets"]
            bytes_by_dtype[tensor["dtype"]] += end - start
    most_common = bytes_by_dtype.most_common(1)
    return DTYPES.get(most_common[0][0]) if most_common else None


def read_header(file: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Return the tensor entries of a safetensors file, and the offset at which their bytes begin.

    The file begins with eight bytes of length, then JSON. safetensors' own `safe_open` does not
    tell the byte ranges, which read-ahead and chunked copies need.
    """
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        header = json.loads(content.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length
