"""Data of a figure in few characters: a page with thousands of points has them many times over."""

from collections.abc import Sequence
from typing import Any


def packed(data: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The data by columns: `length`, and for each name its `values`.

    Where values come again and again, `values` holds each of them once, and `at` the place of each
    datum's there. A place of -1 is that of a datum without that name.
    """
    columns = {}
    for name in dict.fromkeys(name for datum in data for name in datum):
        # True and 1 are equal, and so are 1 and 1.0: as they are written they are not.
        places: dict[tuple[type, Any], int] = {}
        at = [
            places.setdefault((type(datum[name]), datum[name]), len(places))
            if name in datum
            else -1
            for datum in data
        ]
        values = [value for _, value in places]
        if len(values) > len(data) / 2 and -1 not in at:
            columns[name] = {"values": [datum[name] for datum in data]}
        else:
            columns[name] = {"values": values, "at": at}
    return {"length": len(data), "columns": columns}
