"""One training for all cuts of a curve: its draws, its loss, and points that are added later."""

import subprocess
import sys
from collections import Counter
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from architectures import tiny_architecture
from healing_runs import configure
from peft import PeftModel
from tiny_runs import run_tiny, tiny_config
from transformers import AutoModelForCausalLM

from layerprune.errors import UserError
from layerprune.evaluate.heldout_loss import heldout_loss
from layerprune.heal import healing
from layerprune.heal.losses import ElasticNextToken
from layerprune.heal.recipes.elastic import split
from layerprune.heal.recipes.lora import add_adapters
from layerprune.model.load import load
from layerprune.model.surgery import drop_layers, dropped
from layerprune.record.store import Store
from layerprune.run.dense import DenseModel
from layerprune.run.job import JobBuilder
from layerprune.run.pipeline import run_job

HEALING = (
    "heal=elastic", "heal.steps=6", "heal.batch_size=4", "heal.micro_batch_size=2",
    "heal.sequence_length=32", "heal.rank=4", "heal.warmup_steps=1", "heal.eval_every=3",
    "heal.learning_rate=1e-2", "heal.max_fraction=0.5", "heal.bands=1",
)  # fmt: skip


def test_each_step_draws_once_from_each_part_of_the_range(tiny_folder):
    options = configure(tiny_folder, "elastic", "heal.cuts_per_batch=2").heal
    for step in range(20):
        batches = options.draws(seed=3, step=step, num_cuts=8)
        assert [len(cuts) for cuts in batches] == [2, 2]  # 4 sequences, 2 at a time
        drawn = sorted(cut for cuts in batches for cut in cuts)
        assert [cut // 2 for cut in drawn] == [0, 1, 2, 3]
    assert options.draws(3, 5, 8) == options.draws(3, 5, 8)
    assert [options.draws(3, step, 8) for step in range(20)] != [
        options.draws(4, step, 8) for step in range(20)
    ]


def test_in_the_long_run_cuts_are_drawn_equally_often(tiny_folder):
    options = configure(tiny_folder, "elastic").heal
    counts = options.sequences_per_cut(seed=0, steps=3000, num_cuts=5)
    assert sum(counts) == 3000 * 4
    assert max(counts) < 1.05 * min(counts)


def test_bands_divide_the_range(tiny_folder):
    def options(*overrides):
        return configure(tiny_folder, "elastic", *overrides).heal

    assert options("heal.bands=1").trainings(30) == [range(19)]
    assert options("heal.bands=2").trainings(30) == [range(9), range(9, 19)]
    assert options("heal.bands=50", "heal.max_fraction=0.3").trainings(8) == [
        range(1), range(1, 2), range(2, 3)
    ]  # fmt: skip
    assert options("heal.max_fraction=0.999").trainings(8)[-1][-1] == 7  # a layer must remain


def test_each_band_has_its_own_training(tmp_path, tiny_folder, tiny_tasks):
    both = "prune.layers_dropped=[0,1,3,6]", *HEALING, "heal.bands=2"
    points = run_tiny(tmp_path, tiny_folder, tiny_tasks, *both)
    assert [point.healing.together for point in points] == [range(2), range(2), *2 * [range(2, 5)]]
    folders = sorted((tmp_path / "outputs/cache/elastic").iterdir())
    assert len(folders) == 2
    # With six layers as the most, the first of three bands is the same one: not trained again.
    more = "heal.bands=3", "heal.max_fraction=0.7"
    (again,) = run_tiny(
        tmp_path, tiny_folder, tiny_tasks, "prune.layers_dropped=1", *HEALING, *more
    )
    assert again.loss == points[1].loss
    assert sorted((tmp_path / "outputs/cache/elastic").iterdir()) == folders


def test_groups_of_a_batch_differ_by_one_sequence_at_most():
    for size in range(9):
        for parts in range(1, 5):
            slices = split(size, parts)
            rows = [row for one in slices for row in range(size)[one]]
            assert rows == list(range(size))
            counts = Counter(one.stop - one.start for one in slices)
            assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "qwen3", "gpt_neox"])
def test_loss_and_gradients_are_those_of_cut_models_one_by_one(tiny_folder, family):
    torch.manual_seed(0)
    options = configure(
        tiny_folder, "elastic", "heal.dropout=0", "heal.batch_size=5", "heal.micro_batch_size=5",
        "heal.cuts_per_batch=3",
    ).heal  # fmt: skip
    model = tiny_architecture(family).float()
    paths = [tuple(sorted({*range(8)} - set(range(2, 2 + count)))) for count in range(4)]
    add_adapters(model, options)
    trained = [part for part in model.parameters() if part.requires_grad]
    for part in trained:
        part.data.normal_(std=0.1)
    ids = torch.randint(3, 90, (5, 12), generator=torch.Generator().manual_seed(1))
    objective = ElasticNextToken(model, paths, options, seed=7)
    objective.start_step(11)
    loss = objective(ids)["loss"]
    loss.backward()

    (cuts,) = options.draws(7, 11, 4)
    assert len(cuts) == 3
    naive, expected = 0.0, {}
    for cut, rows in zip(cuts, [slice(0, 1), slice(1, 3), slice(3, 5)], strict=True):
        alone = deepcopy(model)
        alone.zero_grad()
        names = {id(part): name for name, part in alone.named_parameters()}
        with dropped(alone, [layer for layer in range(8) if layer not in paths[cut]]):
            part = alone(input_ids=ids[rows], labels=ids[rows], use_cache=False).loss
            (part * (rows.stop - rows.start) / 5).backward()
        naive += float(part) * (rows.stop - rows.start) / 5
        for parameter in alone.parameters():
            if parameter.grad is not None:
                name = names[id(parameter)]
                expected[name] = expected.get(name, 0) + parameter.grad
    assert float(loss) == pytest.approx(naive, rel=1e-5)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            gradient = expected.get(name, torch.zeros_like(parameter))
            assert torch.allclose(parameter.grad, gradient, atol=1e-5), name
    # The model has all of its layers again.
    assert model.config.num_hidden_layers == 8


def test_points_of_one_training_are_what_their_adapters_give_alone(
    tmp_path, tiny_folder, tiny_tasks
):
    job = JobBuilder().build(
        tiny_config(tmp_path, tiny_folder, tiny_tasks, "prune.layers_dropped=[0,2,4,6]", *HEALING)
    )
    points = run_job(job)
    ids = DenseModel(job, None).heldout
    for point in points:
        model = load(job.source, job.config.model.dtype, "cpu").model
        unhealed = heldout_loss(drop_layers(model, point.plan.dropped), ids).nats
        adapter = job.store.point_folder(point.key) / "adapter"
        alone = PeftModel.from_pretrained(model, str(adapter)).base_model.model
        assert point.loss.nats == pytest.approx(heldout_loss(alone, ids).nats, abs=1e-5)
        assert point.healing.heldout_before == pytest.approx(unhealed, abs=1e-5)
        assert point.healing.heldout_after == point.loss.nats
        assert point.healing.tokens == 6 * 4 * 32
        assert point.healing.details["cuts healed together"] == 5
    own = [point.healing.details["tokens of this cut"] for point in points]
    assert own[3] == 0  # six layers are beyond half of eight
    assert 0 < sum(own) <= 6 * 4 * 32
    assert points[0].healing.share == 1 / 5
    assert {point.healing.steps for point in points} == {points[0].healing.steps}


def test_a_point_that_is_added_later_is_evaluated_without_training(
    tmp_path, tiny_folder, tiny_tasks, monkeypatch
):
    both = run_tiny(
        tmp_path / "both", tiny_folder, tiny_tasks, "prune.layers_dropped=[1,3]", *HEALING
    )
    (first,) = run_tiny(tmp_path, tiny_folder, tiny_tasks, "prune.layers_dropped=3", *HEALING)

    def trains(*_):
        raise AssertionError("the adapters exist")

    monkeypatch.setattr(healing, "train", trains)
    (second,) = run_tiny(tmp_path, tiny_folder, tiny_tasks, "prune.layers_dropped=1", *HEALING)
    for alone, shared in zip((second, first), both, strict=True):
        assert alone.key == shared.key
        assert alone.loss == shared.loss
        assert alone.scores == shared.scores
        ours, theirs = (one.healing.steps for one in (alone, shared))
        assert [step.loss for step in ours] == [step.loss for step in theirs]


def test_another_strength_is_the_same_training(tmp_path, tiny_folder, tiny_tasks):
    after = []
    for strength in ("heal.strength=0.001", "heal.strength=0.5", "heal.strength=1"):
        cut = "prune.layers_dropped=3"
        (point,) = run_tiny(tmp_path, tiny_folder, tiny_tasks, cut, *HEALING, strength)
        after.append(point.healing.heldout_after)
    assert len(list((tmp_path / "outputs/cache/elastic").iterdir())) == 1
    assert after[0] == pytest.approx(point.healing.heldout_before, abs=1e-3)
    assert after[0] > after[1] > after[2]


def test_damaged_adapters_are_trained_again(tmp_path, tiny_folder, tiny_tasks):
    (point,) = run_tiny(tmp_path, tiny_folder, tiny_tasks, "prune.layers_dropped=3", *HEALING)
    (weights,) = (tmp_path / "outputs/cache/elastic").glob("*/adapter/adapter_model.safetensors")
    intact = weights.read_bytes()
    weights.write_bytes(intact[:-4] + b"oops")
    record = tmp_path / "outputs/tiny/points" / point.key / "record.json"
    record.unlink()
    (again,) = run_tiny(tmp_path, tiny_folder, tiny_tasks, "prune.layers_dropped=3", *HEALING)
    assert weights.read_bytes() == intact
    assert again.loss == point.loss


def test_another_strategy_or_rank_is_another_training(tmp_path, tiny_folder, tiny_tasks):
    folder = tmp_path / "outputs/cache/elastic"
    for count, other in enumerate(((), ("prune=deepest",), ("heal.rank=2",), ("seed=1",)), start=1):
        run_tiny(tmp_path, tiny_folder, tiny_tasks, "prune.layers_dropped=1", *HEALING, *other)
        assert len(list(folder.iterdir())) == count


def test_layers_by_name_are_no_curve(tmp_path, tiny_folder, tiny_tasks):
    with pytest.raises(UserError, match=r"prune\.layers is one point: use prune\.layers_dropped"):
        run_tiny(tmp_path, tiny_folder, tiny_tasks, "prune.layers=[3]", *HEALING)


def test_a_range_of_all_layers_is_refused(tiny_folder):
    with pytest.raises(UserError, match=r"heal\.max_fraction=1\.0: .* less than 1"):
        configure(tiny_folder, "elastic", "heal.max_fraction=1.0")


def test_cuts_beyond_the_trained_ones_are_named(tmp_path, tiny_folder, tiny_tasks):
    config = tiny_config(tmp_path, tiny_folder, tiny_tasks, "prune.layers_dropped=[4,5]", *HEALING)
    (note,) = JobBuilder().build(config).notes
    assert note == (
        "heal=elastic trains for up to 4 removed layers, not for 5: raise heal.max_fraction."
    )


@pytest.mark.slow
def test_a_checkpoint_of_any_depth_is_the_healed_model(tmp_path, tiny_folder, tiny_tasks):
    points = run_tiny(
        tmp_path, tiny_folder, tiny_tasks, "prune.layers_dropped=[0,3]", "export=hf", *HEALING
    )  # the export itself compares logits with the measured model's
    for point in points:
        checkpoint = tmp_path / "outputs/tiny/points" / point.key / "model"
        model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
        assert model.config.num_hidden_layers == 8 - point.num_dropped
        config = tiny_config(tmp_path, tiny_folder, tiny_tasks, *HEALING)
        ids = DenseModel(JobBuilder().build(config), None).heldout
        assert heldout_loss(model, ids).nats == pytest.approx(point.loss.nats, abs=1e-5)


@pytest.mark.slow
def test_two_runs_at_once_share_one_training(tmp_path, tiny_folder, tiny_tasks):
    runs = [
        subprocess.Popen(
            [
                sys.executable, str(Path(__file__).parents[2] / "main.py"), "model=custom",
                f"model.path={tiny_folder}", "eval.tasks=[letters]", "eval.trust_task_code=true",
                f"eval.include_path={tiny_tasks}", "data.sequence_length=32", "tracker=disabled",
                "data.calibration_sequences=8", "data.heldout_sequences=4", "study=tiny",
                f"prune.layers_dropped={count}", *HEALING,
            ],
            cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for count in (1, 3)
    ]  # fmt: skip
    assert [run.wait() for run in runs] == [0, 0], [run.stderr.read() for run in runs]
    points, _ = Store(tmp_path / "outputs/tiny").points()
    assert sorted(point.num_dropped for point in points) == [1, 3]
    one, other = (point.healing.steps for point in points)
    assert [step.seconds for step in one] == [step.seconds for step in other]
