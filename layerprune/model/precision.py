"""In which precision a model's weights lie on disk, whatever its configuration says."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from layerprune.config.schema import Dtype

KINDS = {"F32": Dtype.float32, "BF16": Dtype.bfloat16, "F16": Dtype.float16}
"""By the names that safetensors has for them."""


def precision(folder: Path) -> Dtype | None:
    """That of most bytes in a model's files; None where it is none that a model is held in.

    `config.json` may say otherwise: transformers goes by it, and would round weights that are
    finer, and write coarser ones out at twice their size.
    """
    count: Counter[str] = Counter()
    for file in folder.glob("*.safetensors"):
        for tensor in read_header(file)[0].values():
            start, end = tensor["data_offsets"]
            count[tensor["dtype"]] += end - start
    most = count.most_common(1)
    return KINDS.get(most[0][0]) if most else None


def read_header(file: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """What a safetensors file says of its tensors, and where in it their bytes begin.

    It begins with eight bytes of length, then has JSON.
    """
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        header = json.loads(content.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length
