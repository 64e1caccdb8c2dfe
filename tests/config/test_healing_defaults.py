"""Defaults of healing fit the run and the model: warm-up, sequences and their length."""

import pytest

from layerprune.config.compose import compose, conf_dir
from layerprune.config.schema import HealingFacts, fit_to_steps, fit_warmup
from layerprune.errors import UserError

MODELS = sorted(path.stem for path in conf_dir().glob("model/*.yaml"))


def path_of(model):
    return ["model.path=org/any"] if model == "custom" else []


def numbers(heal):
    return heal.steps, heal.warmup_steps, heal.batch_size, heal.sequence_length


@pytest.mark.parametrize("model", MODELS)
def test_the_search_heals_every_model_alike(model):
    config = compose("experiment=fit", f"model={model}", *path_of(model))
    assert numbers(config.heal) == (20, 4, 8, 128)
    assert config.heal.rank == config.model.healing.rank
    assert config.heal.learning_rate == config.model.healing.learning_rate


def test_a_long_run_has_the_papers_numbers_and_a_short_one_has_its_own():
    custom = "model=custom", "model.path=org/any", "heal=lora"
    assert numbers(compose(*custom).heal) == (5000, 100, 16, 2048)
    assert numbers(compose(*custom, "heal.steps=200").heal) == (200, 100, 16, 2048)
    assert numbers(compose(*custom, "heal.steps=199").heal) == (199, 19, 8, 128)
    assert numbers(compose(*custom, "heal.steps=20").heal) == (20, 2, 8, 128)
    given = "heal.warmup_steps=3", "heal.batch_size=4", "heal.sequence_length=64"
    assert numbers(compose(*custom, "heal.steps=20", *given).heal) == (20, 3, 4, 64)


def test_what_a_model_brings_is_kept_where_it_fits():
    assert numbers(compose("heal=lora").heal) == (40, 4, 8, 128)
    assert numbers(compose("heal=lora", "heal.steps=20").heal) == (20, 4, 8, 128)
    assert numbers(compose("heal=lora", "heal.steps=5000").heal) == (5000, 4, 8, 128)
    assert numbers(compose("heal=lora", "heal.steps=3").heal) == (3, 0, 8, 128)
    assert numbers(compose("model=phi2", "heal=qlora").heal) == (5000, 100, 16, 2048)


@pytest.mark.parametrize("own", [0, 4, 40, 100, 101])
def test_every_warm_up_ends_before_the_run(own):
    for steps in range(1, 1000):
        assert 0 <= fit_warmup(steps, own) < steps
        if steps >= 200:
            assert fit_warmup(steps, own) == own
    paper = HealingFacts()
    assert fit_warmup(paper.steps, paper.warmup_steps) == paper.warmup_steps


def test_a_models_own_number_is_never_replaced():
    for steps in (1, 199, 200, 5000):
        assert fit_to_steps(steps, given=12, paper=16, short=8) == 12
    assert fit_to_steps(199, given=16, paper=16, short=8) == 8
    assert fit_to_steps(200, given=16, paper=16, short=8) == 16


@pytest.mark.parametrize("steps", [1, 40])
def test_a_warm_up_as_long_as_the_run_is_an_error(steps):
    with pytest.raises(UserError) as caught:
        compose("heal=lora", f"heal.steps={steps}", f"heal.warmup_steps={steps}")
    line = str(caught.value)
    assert f"heal.warmup_steps={steps}: the run has no more steps (heal.steps={steps})" in line
    assert f"Use heal.warmup_steps={steps // 10}." in line


def test_sequences_are_no_longer_than_the_window():
    config = compose("model=custom", "model.path=org/any", "heal=lora")
    config.check_lengths("any", None)
    assert config.heal.sequence_length == 2048
    config.check_lengths("any", 512)
    assert config.heal.sequence_length == 512
    config = compose("heal=lora", "heal.sequence_length=513")
    with pytest.raises(UserError, match=r"heal\.sequence_length=513: any reads 512 tokens"):
        config.check_lengths("any", 512)
