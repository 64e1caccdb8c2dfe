"""A complete run on a tiny model: its files, what is not done twice, and what W&B receives."""

import csv
import json

import pytest
from lm_eval.models.huggingface import HFLM
from tiny import byte_tokenizer
from tiny_runs import run_tiny as run
from wandb_file import read_runs

from layerprune.config.compose import compose
from layerprune.config.registry import METRICS
from layerprune.config.schema import EvalConfig, TrackerConfig
from layerprune.errors import PointFailed, UserError
from layerprune.evaluate.eval_tasks import EvalTasks
from layerprune.evaluate.scorer import Scorer
from layerprune.model.load import load
from layerprune.model.source import locate
from layerprune.model.surgery import drop_layers
from layerprune.prune.strategies.greedy import Greedy
from layerprune.report import draw
from layerprune.run import dense, pipeline
from layerprune.track import mirror


def test_a_curve_from_nothing_to_records_report_and_tracker(tmp_path, tiny_folder, tiny_tasks):
    points = run(tmp_path, tiny_folder, tiny_tasks, "prune.fraction=[0,0.25,0.26,0.5]")
    study = tmp_path / "outputs" / "tiny"
    assert [point.num_dropped for point in points] == [0, 2, 4]
    assert [point.plan.fraction_asked for point in points] == [0, 0.25, 0.5]
    for point in points:
        record = json.loads((study / "points" / point.key / "record.json").read_text())
        assert record["status"] == "ok"
        assert record["plan"]["dropped"] == list(point.plan.dropped)
        assert record["scores"][0]["num_samples"] == 12
        assert record["scores"][0]["chance"] == pytest.approx(1 / 3)
        assert set(record["scores"][0]["measures"]) == {"acc", "acc_norm"}
        assert len(record["scores"][0]["correct"]) == 12
        assert record["config"]["model"]["dtype"] == "float32"
        assert record["model"]["num_layers"] == 8
    assert points[0].model.parameters_kept > points[1].model.parameters_kept

    draw(study)
    rows = list(csv.DictReader((study / "curves.csv").open()))
    assert {(row["task"], row["measure"]) for row in rows} == {
        ("letters", "acc"), ("letters", "acc_norm"), ("heldout", "loss"),
        ("heldout", "loss_normalised"),
    }  # fmt: skip
    assert len(rows) == 3 * 4

    assert not (study / "wandb").exists(), "records only"
    mirror(study, TrackerConfig())
    (logged,) = (run for run in read_runs(study / "wandb") if run.job_type == "curve")
    assert logged.config["curve"] == points[0].curve_key
    assert logged.group == points[0].model.name
    assert ("*", "fraction") in logged.metrics
    told = {
        (float(row["fraction"]), *key.split("/")): value
        for row in logged.history
        for key, value in row.items()
        if "/" in key and not key.endswith("_stderr")
    }
    written = {
        (float(row["fraction"]), row["task"], row["measure"]): float(row["value"]) for row in rows
    }
    assert told == written
    errors = {
        (float(row["fraction"]), *key.removesuffix("_stderr").split("/")): value
        for row in logged.history
        for key, value in row.items()
        if key.endswith("_stderr")
    }
    assert errors
    for (fraction, task, measure), value in errors.items():
        (row,) = (
            row for row in rows
            if (float(row["fraction"]), row["task"], row["measure"]) == (fraction, task, measure)
        )  # fmt: skip
        assert float(row["stderr"]) == pytest.approx(value, rel=1e-12)


def test_finished_points_are_not_made_again(tmp_path, tiny_folder, tiny_tasks, monkeypatch):
    first = run(tmp_path, tiny_folder, tiny_tasks, "prune.fraction=[0,0.25]")
    monkeypatch.setattr(dense, "load", lambda *_: pytest.fail("the model was loaded again"))
    again = run(tmp_path, tiny_folder, tiny_tasks, "prune.fraction=[0.25,0]")
    assert [point.key for point in again] == [first[1].key, first[0].key]
    monkeypatch.undo()
    monkeypatch.setattr(
        dense, "measure_distances", lambda *_: pytest.fail("the distances were measured again")
    )
    more = run(tmp_path, tiny_folder, tiny_tasks, "prune.fraction=[0,0.5]", "prune=deepest")
    assert [point.num_dropped for point in more] == [0, 4]


def test_one_point_equals_the_same_point_of_a_curve(tmp_path, tiny_folder, tiny_tasks):
    curve = run(tmp_path / "a", tiny_folder, tiny_tasks, "prune.fraction=[0,0.25,0.5]")
    single = run(tmp_path / "b", tiny_folder, tiny_tasks, "prune.fraction=0.5")
    assert single[0].key == curve[2].key
    assert single[0].scores == curve[2].scores
    assert single[0].loss == curve[2].loss
    assert single[0].plan == curve[2].plan


def test_less_text_than_asked_for_is_said(tmp_path, tiny_folder, tiny_tasks, capsys):
    text = tmp_path / "three.jsonl"
    documents = [{"text": f"{name} {'word ' * 40}"} for name in ("one", "two", "three")]
    text.write_text("\n".join(map(json.dumps, documents)))
    files = ("data=files", f"data.files=[{text}]", "prune.fraction=0.25", "tracker=disabled")
    (point,) = run(tmp_path, tiny_folder, tiny_tasks, *files)
    said = " ".join(capsys.readouterr().err.split())
    assert "data.calibration_sequences=8: the calibration text has 6 sequences of 32 tok" in said
    assert "data.heldout_sequences=4" not in said
    assert point.loss.num_sequences == 4


HEALING = (
    "heal=full", "heal.steps=4", "heal.batch_size=2", "heal.micro_batch_size=2",
    "heal.sequence_length=32", "heal.warmup_steps=1", "heal.save_every=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def every_metric(tmp_path_factory):
    """One study for all metrics: what they share is measured once."""
    return tmp_path_factory.mktemp("metrics")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["block", "scattered", "greedy"])
@pytest.mark.parametrize("metric", METRICS.choices())
def test_every_metric_with_every_strategy(
    every_metric, tiny_folder, tiny_tasks, metric, strategy, monkeypatch
):
    what = (f"metric={metric}", f"prune={strategy}", "eval.limit=1", "tracker=disabled",
            "data.heldout_sequences=1")  # fmt: skip
    points = run(every_metric, tiny_folder, tiny_tasks, "prune.fraction=[0.25,0.5]", *what)
    assert [len(point.plan.dropped) for point in points] == [2, 4]
    for point in points:
        assert point.plan.metric == metric
        assert (point.plan.profile is None) == (strategy == "greedy")
        tokens = point.identity.get("metric_tokens")
        assert tokens == point.config["metric"]["tokens"]
    if strategy == "greedy":
        assert set(points[0].plan.dropped) < set(points[1].plan.dropped)
        # The order serves fewer layers, too; another text has another.
        monkeypatch.setattr(Greedy, "extend", lambda *_: pytest.fail("done again"))
        (fewer,) = run(every_metric, tiny_folder, tiny_tasks, "prune.fraction=0.375", *what)
        assert set(points[0].plan.dropped) < set(fewer.plan.dropped)


@pytest.mark.slow
def test_a_report_of_every_metric(every_metric, tiny_folder, tiny_tasks):
    study = every_metric / "outputs" / "tiny"
    if not study.is_dir():
        pytest.skip("the tests above were not run")
    report = draw(study)
    assert report.skipped == report.failed == []
    maps = [path for path in report.written if path.name.startswith("distances-")]
    assert len(maps) == 4 * len(METRICS.choices())  # SVG, PDF, PNG and CSV


def test_a_study_by_greedy_alone_has_a_report_without_distances(tmp_path, tiny_folder, tiny_tasks):
    run(tmp_path, tiny_folder, tiny_tasks, "prune=greedy", "prune.fraction=[0,0.5]",
        "tracker=disabled")  # fmt: skip
    report = draw(tmp_path / "outputs" / "tiny")
    assert report.skipped == []
    assert not [path for path in report.written if "distances" in path.name]
    (named,) = run(tmp_path, tiny_folder, tiny_tasks, "prune=greedy", "prune.layers=[2]",
                   "tracker=disabled")  # fmt: skip
    assert named.plan.strategy == "given"


def test_too_few_tokens_for_cka_are_one_line(tmp_path, tiny_folder, tiny_tasks):
    with pytest.raises(UserError, match=r"metric=cka .*data\.sequence_length"):
        run(tmp_path, tiny_folder, tiny_tasks, "metric=cka", "data.sequence_length=4")


@pytest.mark.parametrize("prune", ["block", "greedy"])
def test_distances_are_measured_on_the_questions_if_that_is_asked(
    tmp_path, tiny_folder, tiny_tasks, monkeypatch, prune
):
    seen = []
    for owner, name in ((dense, "measure_distances"), (Greedy, "extend")):
        real = getattr(owner, name)

        def listen(*arguments, real=real):
            seen.append(arguments[-1].ids_NT)
            return real(*arguments)

        monkeypatch.setattr(owner, name, listen)

    def points(*overrides):
        return run(tmp_path, tiny_folder, tiny_tasks, "prune.fraction=[0,0.5]", "tracker=disabled",
                   f"prune={prune}", *overrides)  # fmt: skip

    plain, on_text = points(), points("data.calibration=text")
    on_questions = points("data.calibration=questions", "eval.limit=2")
    assert [point.key for point in plain] == [point.key for point in on_text]
    assert not {point.key for point in plain} & {point.key for point in on_questions}
    assert len(seen) == 2, "text once, questions once"
    asked = EvalConfig(tasks=["letters"], include_path=str(tiny_tasks), trust_task_code=True)
    (prompts,) = EvalTasks(asked).solved_examples()
    assert prompts.startswith("After a comes b\n\nAfter b comes the end\n\nAfter c comes xxx\n\n")
    tokenizer = byte_tokenizer()
    parts = ["".join(tokenizer.batch_decode(ids_NT)) for ids_NT in seen]
    assert prompts.startswith(parts[1])
    assert len(prompts) - len(parts[1]) < 32
    assert "After a comes" not in parts[0]


def test_questions_that_are_not_there_are_one_line(tmp_path, tiny_folder, tiny_tasks):
    for more in (["eval=speed", "eval.tasks=[]"], ["eval.chat_template=true"]):
        with pytest.raises(UserError, match=r"^data\.calibration=questions.*eval\."):
            run(tmp_path, tiny_folder, tiny_tasks, "data.calibration=questions", *more)


@pytest.mark.parametrize("recipe", ["none", "linear"])
def test_a_model_without_a_chat_template_is_refused_before_any_work(
    tmp_path, tiny_folder, tiny_tasks, monkeypatch, recipe
):
    monkeypatch.setattr(dense, "load", lambda *_: pytest.fail("a weight was read"))
    monkeypatch.setattr("layerprune.heal.healing.PointHealing.run", lambda _: pytest.fail("healed"))
    asked = (f"heal={recipe}", "eval.chat_template=true", "prune.fraction=[0.25,0.5]")
    with pytest.raises(UserError, match=r"^eval\.chat_template=true: .* no chat template\.$"):
        run(tmp_path, tiny_folder, tiny_tasks, *asked)
    assert not list(tmp_path.glob("outputs/*/points/*/failed.json"))


def test_named_layers(tmp_path, tiny_folder, tiny_tasks):
    (point,) = run(tmp_path, tiny_folder, tiny_tasks, "prune.layers=[6,1]")
    assert point.plan.strategy == "given"
    assert list(point.plan.dropped) == [1, 6]
    assert point.plan.fraction == 0.25


@pytest.mark.parametrize("layers", [[], [2, 3, 4]])
def test_scores_are_lm_evals_own(tiny_folder, tiny_tasks, tmp_path, layers):
    config = compose("model=custom", f"model.path={tiny_folder}")
    loaded = load(locate(config.model, tmp_path), config.model.dtype, "cpu")
    model = drop_layers(loaded.model, layers)
    questions = EvalTasks(
        EvalConfig(tasks=["letters"], include_path=str(tiny_tasks), trust_task_code=True)
    )
    ours = questions.score(Scorer(model, loaded.tokenizer))
    theirs = questions.score(HFLM(pretrained=model, tokenizer=loaded.tokenizer, batch_size=2))
    assert ours == theirs


def test_a_healed_point(tmp_path, tiny_folder, tiny_tasks):
    points = run(
        tmp_path, tiny_folder, tiny_tasks, "prune.fraction=[0,0.25]", "heal=lora", "heal.steps=4",
        "heal.batch_size=2", "heal.micro_batch_size=2", "heal.sequence_length=32", "heal.rank=2",
        "heal.warmup_steps=1", "heal.eval_every=2",
    )  # fmt: skip
    study = tmp_path / "outputs" / "tiny"
    for point in points:
        record = json.loads((study / "points" / point.key / "record.json").read_text())
        healing = record["healing"]
        assert healing["recipe"] == "lora"
        assert healing["tokens"] == 4 * 2 * 32
        assert healing["heldout_after"] == pytest.approx(record["loss"]["nats"], abs=1e-6)
        folder = study / "points" / point.key
        assert {child.name for child in folder.iterdir()} == {"record.json", "adapter"}
    mirror(study, TrackerConfig())
    (logged,) = (
        run for run in read_runs(study / "wandb")
        if run.config.get("point") == points[1].key
    )  # fmt: skip
    assert ("heal/*", "heal/step") in logged.metrics
    told = [row["heal/loss"] for row in logged.history if "heal/loss" in row]
    assert told == [step.loss for step in points[1].healing.steps[1:]]
    speeds = [row["heal/tokens_per_second"] for row in logged.history if "heal/loss" in row]
    assert speeds == pytest.approx([2 * 32 / step.seconds for step in points[1].healing.steps[1:]])
    assert sum("heal/peak_memory_bytes" in row for row in logged.history) == 4
    draw(study)
    plain = run(tmp_path, tiny_folder, tiny_tasks, "prune.fraction=[0,0.25]")
    assert not {point.key for point in plain} & {point.key for point in points}
    # An adapter's weights are no layers that were kept.
    kept = [[point.model.parameters_kept for point in each] for each in (plain, points)]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("strategy", ["block", "greedy"])
def test_a_healed_point_of_known_distances_loads_one_model(
    tmp_path, tiny_folder, tiny_tasks, monkeypatch, strategy
):
    asked = (tmp_path, tiny_folder, tiny_tasks, "prune.fraction=0.125", f"prune={strategy}")
    run(*asked)

    def loaded(*_):
        raise AssertionError("the dense model is of no use to it")

    monkeypatch.setattr(dense, "load", loaded)
    (point,) = run(*asked, *HEALING)
    assert point.healing is not None


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.sequence_length=513"],
        ["heal=lora", "heal.sequence_length=513"],
        ["eval=speed", "eval.speed.prompt_tokens=500", "eval.speed.new_tokens=14"],
    ],
)
def test_sequences_longer_than_the_window_are_refused_before_a_weight_is_read(
    tmp_path, tiny_folder, tiny_tasks, monkeypatch, overrides
):
    monkeypatch.setattr(pipeline, "run_jobs", lambda _: pytest.fail("nothing may be made"))
    with pytest.raises(UserError, match=r"=513: tiny reads 512 tokens at most"):
        run(tmp_path, tiny_folder, tiny_tasks, *overrides)


def test_a_point_that_fails_leaves_the_others_and_its_reason(tmp_path, tiny_folder, tiny_tasks):
    exploding = (*HEALING, "heal.learning_rate=1e30", "heal.max_grad_norm=1e30")
    study = tmp_path / "outputs" / "tiny"
    with pytest.raises(PointFailed, match="not a number at step"):
        run(tmp_path, tiny_folder, tiny_tasks, "prune.fraction=[0.25,0.5]", *exploding)
    assert len(list(study.glob("points/*/failed.json"))) == 2
    for path in study.glob("points/*/failed.json"):
        said = json.loads(path.read_text())
        assert said["status"] == "failed"
        assert "learning rate" in said["error"]
        assert "Traceback" in path.with_name("traceback.txt").read_text()
        assert list(path.parent.glob("checkpoints/checkpoint-*")), "the last good one stays"
    run(tmp_path, tiny_folder, tiny_tasks, "prune.fraction=0.25")
    report = draw(study)
    assert len(report.failed) == 2
    assert "not a number" in report.failed[0]


def test_a_point_that_is_made_after_all_is_failed_no_more(
    tmp_path, tiny_folder, tiny_tasks, monkeypatch
):
    def fail(*_, **__):
        raise PointFailed("for once")

    with monkeypatch.context() as once:
        once.setattr("layerprune.run.pipeline._point", fail)
        with pytest.raises(PointFailed, match="for once"):
            run(tmp_path, tiny_folder, tiny_tasks, "prune.fraction=0.25")
    (failed,) = (tmp_path / "outputs" / "tiny").glob("points/*/failed.json")
    run(tmp_path, tiny_folder, tiny_tasks, "prune.fraction=0.25")
    assert [path.name for path in failed.parent.iterdir()] == ["record.json"]
