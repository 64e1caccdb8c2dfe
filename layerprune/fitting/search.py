"""How many layers can go if what is left is healed: a search that heals few candidates.

A candidate is a number of layers n. What is known of it is a margin: by how much a model beats its
budget, below 0 where it misses it. Margins of all un-healed cuts are known; a healed one costs
minutes or hours, and has the noise of its questions.

The search holds a belief about the whole healed curve, made of many curves: falls, flat at first
and then down, through the budget after each n and more or less sharply, about which a curve has
ups and downs of its own. None of them lies below the un-healed curve. At first each n is as likely
to be the largest that meets the budget as its neighbour; what is measured makes some curves more
likely, by how far they are from it in units of noise. What is healed next is the n that halves the
belief about the largest one that meets the budget (Horstein, Sequential transmission using
noiseless feedback, 1963, which is bisection where answers may be wrong). One that misses it makes
those beyond it less likely and not impossible: a dip, or bad luck, hides them no longer than there
are healings left.

Letters: N numbers of layers, from 0 to one less than there are; M healed ones; F falls; B drawn
curves; Q questions. Nothing here is left to chance: draws are made by `SEED`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DRAWS = 1000
SEED = 0

BEYOND = (0.25, 0.75)
"""A fall goes through the budget so far beyond the last n that meets it."""

WIDTHS = 6
"""Of falls: from a tenth of a layer to a quarter of all."""

LEVELS = (0.96, 0.98, 1.0)
"""What is left before a fall, of the dense margin: healing may cost some."""

BUMPS = {0.01: 0.45, 0.03: 0.45, 0.1: 0.1}
"""Standard deviations of a curve's own ups and downs, as shares of the dense margin, and how likely
each is thought to be."""

REACH = 0.5
"""Over how many layers these are alike."""

MISSED = 0.2
"""Of the dense margin: a candidate that misses the budget by more says no more than one that misses
it by this. Curves need not end at chance, as falls do."""

HALVES = 1 / 3
"""An n so far beyond the un-healed curve, as a part of all layers, is half as likely."""

PAST = 2
"""Before the end, if one candidate alone has missed the budget, one so far beyond it is healed."""

SURE = 0.02
"""The search ends where it is no likelier than this that a candidate which was not healed is the
largest that meets the budget."""


@dataclass(frozen=True)
class Margin:
    """By how much a model beats its budget on the questions it was asked, in shares of them."""

    value: float
    errors_Q: Floats
    """The part of each question in the error of `value`. Products of two margins', summed, are the
    covariance of their errors: they were asked the same questions."""

    @property
    def stderr(self) -> float:
        """The standard error of `value`."""
        return float(np.sqrt(self.errors_Q @ self.errors_Q))


@dataclass(frozen=True)
class Belief:
    """What is thought of the healed curve."""

    meets_N: Floats
    """The probability that n, healed, meets the budget."""
    last_N: Floats
    """The probability that n is the largest that meets it, healed or not."""
    answer: int
    """The largest n that meets the budget more likely than not, of those that were healed and those
    that meet it un-healed."""
    ask: int | None
    """Which n to heal next; None where another would hardly change the answer."""

    @property
    def between(self) -> tuple[int, int]:
        """The largest n that meets the budget is one of these or between them, by 95 %."""
        below_N = np.cumsum(self.last_N)
        low, high = np.searchsorted(below_N, (0.025, 0.975))
        return int(low), min(int(high), len(below_N) - 1)


def most_healings(num_layers: int) -> int:
    """How many candidates a search heals at most: what halving takes, and one more."""
    return math.ceil(math.log2(num_layers)) + 1


def unhealed_answer(unhealed: Sequence[Margin]) -> int:
    """The largest n that meets the budget without healing."""
    return max((n for n, margin in enumerate(unhealed) if margin.value >= 0), default=0)


def search(
    unhealed: Sequence[Margin],
    dense: float,
    keep: float,
    heal: Callable[[int], Margin],
    hear: Callable[[Belief, Mapping[int, Margin]], None] = lambda belief, healed: None,
    known: Mapping[int, Margin] | None = None,
) -> tuple[Belief, dict[int, Margin]]:
    """What is thought in the end, and the margins of the candidates that were healed.

    `heal` makes a candidate and says its margin; `hear` is told what is thought before each;
    `known` are candidates that were healed before, and count. The same margins lead to the same
    candidates: a search that was stopped goes the same way again.
    """
    healed = dict(known or {})
    while True:
        belief = believe(unhealed, healed, dense, keep)
        hear(belief, healed)
        if belief.ask is None or len(healed) >= most_healings(len(unhealed)):
            return belief, healed
        healed[belief.ask] = heal(belief.ask)


def believe(
    unhealed: Sequence[Margin], healed: Mapping[int, Margin], dense: float, keep: float
) -> Belief:
    """What is thought of every n, given all un-healed margins and those of some healed ones.

    `unhealed` has one for each n from 0. `dense` is the dense model's margin over chance, above 0,
    and `keep` the share of it that the budget asks for.
    """
    count, num_questions = len(unhealed), unhealed[0].errors_Q.size
    floor = unhealed_answer(unhealed)
    known_M = np.array(sorted(healed), dtype=int)
    # From here on margins are shares of the dense one.
    values_M = np.maximum([healed[n].value / dense for n in known_M], -MISSED)
    errors_MQ = (
        np.array([healed[n].errors_Q for n in known_M]).reshape(len(known_M), num_questions) / dense
    )
    falls_FN = np.maximum(
        _falls(count, keep) - keep,
        np.maximum([margin.value / dense for margin in unhealed], -MISSED),
    )
    apart_NN = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    alike_NN = np.exp(-0.5 * (apart_NN / REACH) ** 2)
    off_FM = values_M - falls_FN[:, known_M]
    before_F = _before(_last(falls_FN >= 0, floor), floor)

    draws = np.random.default_rng(SEED)
    parts = []
    for bump, likely in BUMPS.items():
        # Ups and downs as a Gaussian process, given what is measured.
        all_NN = bump**2 * alike_NN
        measured_MM = all_NN[np.ix_(known_M, known_M)] + errors_MQ @ errors_MQ.T
        solved_MF = np.linalg.solve(measured_MM, off_FM.T)
        fits_F = -0.5 * (np.sum(off_FM.T * solved_MF, axis=0) + np.linalg.slogdet(measured_MM)[1])
        mean_FN = falls_FN + solved_MF.T @ all_NN[known_M]
        left_NN = all_NN - all_NN[:, known_M] @ np.linalg.solve(measured_MM, all_NN[known_M])
        parts.append((fits_F + before_F + math.log(likely), mean_FN, left_NN))
    highest = max(log_F.max() for log_F, _, _ in parts)
    weights = [np.exp(log_F - highest) for log_F, _, _ in parts]
    total = sum(float(weight_F.sum()) for weight_F in weights)
    meets_N, last_N = np.zeros(count), np.zeros(count)
    for weight_F, (_, mean_FN, left_NN) in zip(weights, parts, strict=True):
        share_F = weight_F / total
        meets_N += share_F @ _normal_cdf(mean_FN / np.sqrt(np.maximum(np.diag(left_NN), 1e-12)))
        last_N += share_F.sum() * _drawn_last(share_F, mean_FN, left_NN, floor, draws)
    answer = max([floor, *(int(n) for n in known_M if meets_N[n] >= 0.5)])
    ask = _ask(last_N, floor, healed)
    if ask is None:
        ask = _beyond_a_dip([n for n in healed if n > answer], count)
    return Belief(meets_N, last_N, answer, ask)


@lru_cache(maxsize=2)
def _falls(count: int, keep: float) -> Floats:
    """Falls of the share that is left, [F, N]: through `keep` beyond each n but the last.

    A fall is `level * (1 + a) / (1 + a * exp(n / width))`, of which `a` says where it goes through.
    """
    n_N = np.arange(count)
    found = [np.exp(-n_N / 0.3)]  # nothing stays
    for last in range(1, count):
        for beyond in BEYOND:
            for width in np.geomspace(0.1, count / 4, WIDTHS):
                for level in LEVELS:
                    at, left = (last + beyond) / width, keep / level
                    if left >= 1 or at + math.log(left) < 0.01:
                        continue  # so wide a fall is through before that
                    log_a = math.log1p(-left) - at - math.log(left - math.exp(-at))
                    log_N = np.logaddexp(0, log_a) - np.logaddexp(0, log_a + n_N / width)
                    found.append(level * np.exp(log_N))
    return np.stack(found)


def _before(last_F: NDArray[np.int64], floor: int) -> Floats:
    """Logarithms of how likely falls are before anything is healed, by where they end: [F]."""
    often_N = np.bincount(last_F)
    far_F = (last_F - floor) / (HALVES * (last_F.max() + 1))
    return np.asarray(-np.log(often_N[last_F]) - math.log(2) * far_F)


def _last(meets_BN: NDArray[np.bool_], floor: int) -> NDArray[np.int64]:
    """Of each curve the largest n that meets the budget, `floor` at least: [B]."""
    last_B = meets_BN.shape[1] - 1 - np.argmax(meets_BN[:, ::-1], axis=1)
    return np.where(meets_BN.any(axis=1), np.maximum(last_B, floor), floor)


def _drawn_last(
    share_F: Floats,
    mean_FN: Floats,
    covariance_NN: Floats,
    floor: int,
    draws: np.random.Generator,
) -> Floats:
    """The probability of each n to be the largest that meets the budget: [N]."""
    values, vectors = np.linalg.eigh(covariance_NN)
    root_NN = vectors * np.sqrt(np.maximum(values, 0.0))
    which_B = draws.choice(len(share_F), DRAWS, p=share_F / share_F.sum())
    bumps_BN = draws.standard_normal((DRAWS, len(values))) @ root_NN.T
    last_B = _last(mean_FN[which_B] + bumps_BN >= 0, floor)
    return np.bincount(last_B, minlength=len(values)) / DRAWS


def _ask(last_N: Floats, floor: int, healed: Mapping[int, Margin]) -> int | None:
    """The n that halves the belief best, of those that were not healed."""
    open_ = [n for n in range(floor + 1, len(last_N)) if n not in healed]
    if sum(last_N[n] for n in open_) <= SURE:
        return None
    beyond_N = np.cumsum(last_N[::-1])[::-1]  # that it is n or a larger one
    return min(open_, key=lambda n: (abs(beyond_N[n] - 0.5), -n))


def _beyond_a_dip(missed: Sequence[int], count: int) -> int | None:
    """What shows whether the only candidate that missed the budget stands in a dip."""
    if len(missed) != 1 or missed[0] + PAST >= count:
        return None
    return missed[0] + PAST


def _normal_cdf(values_FN: Floats) -> Floats:
    from scipy.special import ndtr

    return np.asarray(ndtr(values_FN))
