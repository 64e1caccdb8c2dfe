"""What the numbers of each metric are called, and in which unit they are."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """How a matrix of distances is read."""

    legend: str
    """Beside the colours."""
    caption: str
    """What an entry is, as the start of a sentence."""


BETWEEN = "between the input of layer l and that of layer l+n"
SUMMED = "of layers l to l+n-1, added up"

SCALES = {
    "angular": Scale("angular distance d(l, n), units of π", f"Angular distance {BETWEEN}"),
    "cosine": Scale("cosine distance d(l, n), 1 = orthogonal", f"1 - cosine {BETWEEN}"),
    "block_influence": Scale(
        "block influence d(l, n), 1 = orthogonal", f"Block influence (1 - cosine) {BETWEEN}"
    ),
    "magnitude": Scale(
        "relative magnitude d(l, n), |y - x| / |x|", f"Length of the difference {BETWEEN}, "
        "relative to the former's",
    ),
    "euclidean": Scale("Euclidean distance d(l, n)", f"Euclidean distance {BETWEEN}"),
    "cka": Scale("1 - linear CKA d(l, n)", f"1 - linear CKA {BETWEEN}"),
    "perplexity": Scale("rise of the loss d(l, n), nats per token", f"Rise of the loss {SUMMED}"),
    "taylor": Scale("sum of |w dL/dw|, d(l, n), nats", f"Sum of |w dL/dw| over weights {SUMMED}"),
    "random": Scale("drawn importance d(l, n)", f"Importances drawn by the seed {SUMMED}"),
}  # fmt: skip


def scale_of(metric: str) -> Scale:
    """The scale of a metric, of one that is not known here too."""
    return SCALES.get(metric) or Scale(f"{metric} d(l, n)", f"{metric.capitalize()} {BETWEEN}")
