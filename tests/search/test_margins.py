"""What is kept of the dense margin, against the definition and against resampling."""

import numpy as np
import pytest
from studies import Maker

from layerprune.errors import UserError
from layerprune.search.margins import DenseBaseline

pytestmark = pytest.mark.quick


def entry(tmp_path, digits_of_task, chance=0.25, **more):
    """A point with these answers: a digit a question."""
    maker = Maker(tmp_path)
    maker.point(tasks=list(digits_of_task), subjects=(), chance=chance, write=False, **more)
    with maker.editing() as content:
        for score in content["scores"]:
            digits = digits_of_task[score["task"]]
            score["correct"], score["num_samples"] = digits, len(digits)
            score["measures"]["acc"]["value"] = digits.count("1") / len(digits)
    return maker.made[0]


def answers(draws, *shares, num_questions=400):
    """Of models that err on the same questions in part, as digits."""
    hardness_Q = draws.uniform(size=num_questions)
    own_PQ = draws.uniform(size=(len(shares), num_questions))
    return [
        "".join("01"[int(right)] for right in 0.7 * hardness_Q + 0.3 * own_Q < share)
        for share, own_Q in zip(shares, own_PQ, strict=True)
    ]


def test_a_margin_is_accuracy_over_chance_less_a_share_of_the_dense_one(tmp_path):
    dense = entry(tmp_path, {"a": "1111000011"})  # 0.6: 0.35 over chance
    cut = entry(tmp_path, {"a": "1111000000"})  # 0.4: 0.15
    baseline = DenseBaseline(entry(tmp_path, {"a": "1111000011" * 10}))
    assert baseline.margin == pytest.approx(0.35)
    assert baseline.excess(entry(tmp_path, {"a": "1111000000" * 10}), 0.5).value == pytest.approx(
        0.15 - 0.5 * 0.35
    )
    assert baseline.kept(entry(tmp_path, {"a": "1111000000" * 10})).share == pytest.approx(15 / 35)
    assert (dense.correct_share("a"), cut.correct_share("a")) == (0.6, 0.4)


def test_tasks_count_alike_whatever_their_size(tmp_path):
    baseline = DenseBaseline(entry(tmp_path, {"a": "1" * 300, "b": "10" * 20}))
    assert baseline.margin == pytest.approx((0.75 + 0.25) / 2)


def test_a_model_that_answers_as_the_dense_one_keeps_all_without_doubt(tmp_path):
    whole = entry(tmp_path, {"a": answers(np.random.default_rng(0), 0.6)[0]})
    kept = DenseBaseline(whole).kept(whole)
    assert (kept.share, kept.interval.low, kept.interval.high) == pytest.approx((1, 1, 1))


def test_intervals_are_those_of_resampled_questions(tmp_path):
    draws = np.random.default_rng(1)
    digits = {task: answers(draws, 0.62, 0.5, num_questions=count) for task, count in
              (("a", 500), ("b", 200))}  # fmt: skip
    dense, cut = (entry(tmp_path, {task: of[at] for task, of in digits.items()}) for at in (0, 1))
    kept = DenseBaseline(dense).kept(cut)
    marks = {task: np.array([[int(d) for d in row] for row in of]) for task, of in digits.items()}
    shares = []
    for _ in range(4000):
        over = []
        for marks_PQ in marks.values():
            drawn = draws.integers(marks_PQ.shape[1], size=marks_PQ.shape[1])
            over.append(marks_PQ[:, drawn].mean(axis=1) - 0.25)
        whole, less = np.mean(over, axis=0)
        shares.append(less / whole)
    low, high = np.quantile(shares, [0.025, 0.975])
    assert kept.interval.low == pytest.approx(low, abs=0.015)
    assert kept.interval.high == pytest.approx(high, abs=0.015)


def test_errors_on_the_same_questions_are_held_against_each_other(tmp_path):
    draws = np.random.default_rng(2)
    whole, first, second = answers(draws, 0.62, 0.5, 0.5, num_questions=20_000)
    baseline = DenseBaseline(entry(tmp_path, {"a": whole}))
    one, other = (baseline.excess(entry(tmp_path, {"a": of}), 0.8) for of in (first, second))
    together = one.errors_Q @ other.errors_Q / (one.stderr * other.stderr)
    rows = np.array([[int(d) for d in of] for of in (whole, first, second)], dtype=float)
    more = rows[1:] - 0.8 * rows[0]
    assert together == pytest.approx(np.corrcoef(more)[0, 1], abs=1e-6)
    assert together > 0.2


def test_where_there_is_nothing_to_keep_it_is_said(tmp_path):
    with pytest.raises(UserError, match="not significant"):
        DenseBaseline(entry(tmp_path, {"a": "1000" * 50}))
    with pytest.raises(UserError, match="a has no chance accuracy"):
        DenseBaseline(entry(tmp_path, {"a": "1110" * 50}, chance=None))


def test_the_questions_of_a_group_are_those_of_its_tasks(tmp_path):
    point = Maker(tmp_path).point(write=False)
    assert DenseBaseline(point).excess(point, 0.0).errors_Q.size == 40
