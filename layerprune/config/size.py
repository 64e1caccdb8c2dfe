"""Sizes of memory as people write them."""

import re

UNITS = {
    "": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip


def num_bytes(text: str) -> int:
    """Bytes of a size such as `500MB`, `1.5 GiB` or `1048576`. Raises `ValueError` for others."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if found is None or found[2].upper() not in UNITS:
        raise ValueError(f"{text!r} is not a size such as 500MB or 2GiB.")
    return int(float(found[1]) * UNITS[found[2].upper()])
