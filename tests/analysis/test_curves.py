import pytest

from layerprune.analysis.curves import make_curves, make_tasks
from layerprune.report.tables.summary import findings, last_good, sentences

pytestmark = pytest.mark.quick


def curves_of(maker):
    return make_curves(maker.made)


def test_points_that_differ_in_layers_only_are_one_curve(maker):
    maker.curve(counts=(4, 0, 2), write=False)
    (curve,) = curves_of(maker)
    assert curve.label == "block"
    assert [entry.num_dropped for entry in curve.points] == [0, 2, 4]
    assert curve.dense is curve.points[0]


def test_names_say_what_differs_and_no_more(maker):
    maker.curve("block", write=False)
    maker.curve("random", seed=1, write=False)
    maker.curve("random", seed=2, write=False)
    assert [curve.label for curve in curves_of(maker)] == [
        "block",
        "random · seed 1",
        "random · seed 2",
    ]
    # Repeats with another seed are tints of one colour.
    assert [curve.base_hue for curve in curves_of(maker)] == ["block", "random", "random"]


def test_curves_stand_in_the_order_of_their_numbers(maker):
    for number in (64, 8, 1, 256):
        maker.point(write=False)
        with maker.editing() as content:
            content["identity"]["data"]["calibration_sequences"] = number
    labels = [curve.label for curve in make_curves(maker.made)]
    start = "block · data.calibration_sequences="
    assert labels == [f"{start}{number}" for number in (1, 8, 64, 256)]


def test_a_default_that_the_identity_leaves_out_is_named_where_others_differ(maker):
    for number in range(2):
        maker.point(write=False)
        with maker.editing() as content:
            content["config"].setdefault("data", {})["calibration"] = ("text", "questions")[number]
            if number:
                content["identity"]["data"]["calibration"] = "questions"
    labels = {curve.label for curve in make_curves(maker.made)}
    assert labels == {"block · data.calibration=questions", "block · data.calibration=text"}


def test_models_give_the_colours_where_there_are_several(maker):
    for model in ("b", "a"):
        for heal in ("none", "lora"):
            maker.curve(model=model, heal=heal, write=False)
    curves = curves_of(maker)
    assert [curve.label for curve in curves] == [
        "a · block · not healed",
        "a · block · lora",
        "b · block · not healed",
        "b · block · lora",
    ]
    assert [curve.hue for curve in curves] == ["a", "a", "b", "b"]


def test_curves_on_other_questions_are_not_mixed(maker):
    maker.curve(limit=20, write=False)
    maker.curve(limit=5, questions=5, write=False)
    curves = curves_of(maker)
    assert {curve.label for curve in curves} == {"block · eval.limit=20", "block · eval.limit=5"}
    assert len({curve.hue for curve in curves}) == 2
    assert all(curve.dense is curve.points[0] for curve in curves)
    facts = make_tasks(curves)[0]
    assert facts.num_samples == (10, 40)
    assert facts.size == "10 to 40 questions (2 subjects)"


def test_the_dense_model_may_come_from_another_curve_but_never_healed(maker):
    maker.curve("block", counts=(0, 2), heal="lora", write=False)
    maker.curve("deepest", counts=(2,), write=False)
    maker.curve("block", counts=(0, 2), write=False)
    for curve in curves_of(maker):
        assert curve.dense is not None
        assert (curve.dense.recipe, curve.dense.num_dropped) == ("none", 0)


def test_coarser_products_make_curves_of_their_own_with_their_own_dense_model(maker):
    for precision in ("highest", "high"):
        for count in (0, 2):
            maker.point(range(5, 5 + count), write=False)
            with maker.editing() as content:
                setting = {"runtime": {"float32_matmul_precision": precision}}
                content["config"] |= setting
                if precision != "highest":
                    content["identity"] |= setting
    curves = curves_of(maker)
    start = "block · runtime.float32_matmul_precision="
    assert {curve.label for curve in curves} == {f"{start}high", f"{start}highest"}
    assert all(curve.dense is curve.points[0] for curve in curves)


def test_a_whole_model_that_was_healed_is_no_reference(maker):
    maker.curve(counts=(0, 2, 4), heal="full", write=False)
    maker.curve(counts=(0, 2, 4), heal="lora", write=False)
    assert [curve.dense for curve in curves_of(maker)] == [None, None]


def test_settings_that_begin_alike_are_told_apart(maker):
    ends = ("gate_proj", "gate_projection", "up_proj")
    for end in ends:
        before = len(maker.made)
        maker.curve(write=False)
        for at in range(before, len(maker.made)):
            with maker.editing(at) as content:
                targets = ["mlp.a_long_name_of_a_module", f"mlp.{end}"]
                content["identity"]["heal"]["targets"] = targets
    labels = {curve.label for curve in curves_of(maker)}
    assert len(labels) == len(ends)
    assert all("a_long_name_of_a_module, mlp." in label for label in labels)


def test_accuracy_is_kept_up_to_the_last_point_before_the_first_bad_one(maker):
    for dropped in ([], [3], [3, 4], [3, 4, 5]):
        maker.point(dropped, write=False)
    for at, share in enumerate((0.65, 0.62, 0.5, 0.64)):
        with maker.editing(at) as content:  # 0.61 is 90 % of the margin over 0.25
            content["scores"][0]["measures"]["acc"]["value"] = share
    (curve,) = curves_of(maker)
    good = last_good(curve, "facts")
    assert good is not None
    assert good.plan.dropped == (3,)
    said = " ".join(sentences([curve], findings([curve], make_tasks([curve]))))
    assert "12.5% of the layers removed (1 of 8: 3)" in said
    assert "65.0 ± " in said


@pytest.mark.parametrize("chance", [None, 0.9])
def test_without_a_margin_over_chance_nothing_is_claimed(maker, chance):
    maker.curve(chance=chance, write=False)
    (curve,) = curves_of(maker)
    assert last_good(curve, "facts") is None
    said = " ".join(sentences([curve], findings([curve], make_tasks([curve]))))
    assert "keeps its accuracy" not in said
    assert ("not above chance" in said) == (chance is not None)


def test_subjects_are_counted_through_groups_within_groups(maker):
    maker.point(tasks=("mmlu",), subjects=("stem", "other"), write=False)
    with maker.editing() as content:
        content["scores"] += [
            {**score, "task": f"{score['task']}_{part}", "parent": score["task"]}
            for score in content["scores"][1:3]
            for part in "ab"
        ]
    mmlu, stem, *_ = make_tasks(curves_of(maker))
    assert mmlu.children == ("mmlu_stem", "mmlu_other")
    assert (mmlu.num_subjects, stem.num_subjects) == (4, 2)
