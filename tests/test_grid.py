"""A sweep's jobs as `Grid` composes them, against Hydra's own composition of each."""

import gc
import weakref

import pytest
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from layerprune.config.compose import conf_dir
from layerprune.errors import UserError
from layerprune.grid import PLUGIN, BasicLauncher, Grid, _Heard, _OneByOne


@pytest.fixture
def grid():
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        made = Plugins.instance().class_name_to_class[PLUGIN](max_batch_size=None)
        made.config = loader.load_configuration(
            "config", overrides=["hydra.verbose=false"], run_mode=RunMode.MULTIRUN
        )
        made.hydra_context = HydraContext(config_loader=loader, callbacks=None)
        yield made


def by_hydra(grid, overrides):
    composed = grid.hydra_context.config_loader.load_sweep_config(grid.config, overrides)
    with open_dict(composed):
        del composed["hydra"]
    return composed


JOBS = [
    ["prune.fraction=0.1", "seed=1"],
    ["prune.fraction=[0,0.1,0.2]", "seed=1"],
    ["seed=1", "prune.fraction=0.1"],
    ["model=gpt2", "prune.fraction=0.1", "heal=lora", "heal.steps=7"],
    ["model=gpt2", "prune.fraction=0.2", "heal=lora", "heal.rank=2"],
    ["experiment=demo", "prune.strategy=deepest"],
    ["prune.layers=[3,4]", "hydra.verbose=true", "eval.tasks=[boolq]"],
    ["++study=other", "prune.layers=[1,2]"],
    ["model=custom", "model.path='a,b=c [d]'", "tracker=disabled"],
    ["model=custom", "model.path=${study}", "study=x"],
]


def test_jobs_are_those_that_hydra_composes(grid):
    made = list(grid._composed(JOBS))
    for overrides, composed in zip(JOBS, made, strict=True):
        expected = by_hydra(grid, overrides)
        assert OmegaConf.to_yaml(composed) == OmegaConf.to_yaml(expected), overrides
        assert OmegaConf.to_object(composed) == OmegaConf.to_object(expected)


def test_files_are_read_once_for_jobs_that_choose_the_same(grid, monkeypatch):
    loader = grid.hydra_context.config_loader
    read = []
    compose = loader.load_sweep_config
    monkeypatch.setattr(
        loader, "load_sweep_config", lambda *given: read.append(given[1]) or compose(*given)
    )
    jobs = [
        [f"model={model}", f"prune.fraction={share}"]
        for model in ("gpt2", "phi2")
        for share in (0, 0.1, 0.2, 0.3)
    ]
    values = [each.prune.fraction for each in grid._composed(jobs)]
    assert values == [0, 0.1, 0.2, 0.3] * 2
    assert read == [["model=gpt2"], ["model=phi2"]]


@pytest.mark.parametrize(
    "overrides",
    [["seed=x"], ["no_such_key=1"], ["model=gtp2"], ["prune.no=1"], ["+runtime.outputs=x"]],
)
def test_what_hydra_refuses_is_refused(grid, overrides):
    refusals = (HydraException, OmegaConfBaseException)
    with pytest.raises(refusals):
        by_hydra(grid, overrides)
    with pytest.raises(refusals):
        list(grid._composed([overrides]))


def test_keys_within_one_that_is_null_are_refused_in_a_line(grid):
    with pytest.raises(UserError, match=r"within one that is null, as model\.shape"):
        list(grid._composed([["model=phi3_mini", "model.shape.num_hidden_layers=4"]]))


def test_jobs_that_ended_keep_nothing_of_their_configuration(tmp_path):
    kept, numbers = [], []

    def task(config):
        kept.append(weakref.ref(config))
        numbers.append(HydraConfig.get().job.num)
        if config.seed == 1:
            raise ValueError("this one fails")
        return config.seed

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        quiet = [
            "hydra/job_logging=none",
            "hydra/hydra_logging=none",
            f"hydra.sweep.dir={tmp_path}",
        ]
        launcher = BasicLauncher()
        launcher.setup(
            hydra_context=HydraContext(config_loader=loader, callbacks=Callbacks()),
            task_function=task,
            config=loader.load_configuration("config", quiet, run_mode=RunMode.MULTIRUN),
        )
        ended = _OneByOne(launcher).launch([[f"seed={seed}"] for seed in range(3)], 5)
    gc.collect()
    assert numbers == [5, 6, 7]
    assert ended[0].return_value == 0
    with pytest.raises(ValueError, match="this one fails"):
        _ = ended[1].return_value
    assert ended[2].return_value == 2
    # What failed is still looked at, with all that its traceback holds.
    assert [each() is None for each in kept] == [True, False, True]


class Failing:
    """A launcher that dies, as submitit does of a job that was killed, or without a word."""

    def __init__(self, *words):
        self._words = words

    def launch(self, job_overrides, initial_job_idx):
        raise RuntimeError(*self._words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("Job (task=0) failed with trace:\n----\n  it was killed",), "---- it was killed. "),
        ((), "RuntimeError"),
    ],
)
def test_a_launcher_that_fails_is_told_of_and_ends_no_sweep(tmp_path, capsys, words, said):
    details = tmp_path / "study" / "launcher.log"
    assert _Heard(Failing(*words), details).launch([["seed=1"]], 0) == []
    line = capsys.readouterr().err.replace("\n", " ")
    assert said in line
    assert "RuntimeError" in details.read_text()


def test_a_job_that_raised_keeps_no_other_from_being_heard(tmp_path, monkeypatch, capsys):
    class Works:
        def launch(self, job_overrides, initial_job_idx):
            failed = JobReturn(status=JobStatus.FAILED, _return_value=RuntimeError("it fell over"))
            return [failed, JobReturn(status=JobStatus.COMPLETED, _return_value=7)]

    heard = []
    monkeypatch.setattr(Grid, "hear", heard.append, raising=False)
    _Heard(Works(), tmp_path / "launcher.log").launch([["seed=1"], ["seed=2"]], 0)
    assert heard == [7]
    assert "it fell over" in capsys.readouterr().err


def test_a_launcher_that_works_leaves_nothing_of_an_earlier_failure(tmp_path, monkeypatch):
    class Works:
        def launch(self, job_overrides, initial_job_idx):
            return [JobReturn(status=JobStatus.COMPLETED, _return_value=7)]

    heard = []
    monkeypatch.setattr(Grid, "hear", heard.append, raising=False)
    (tmp_path / "launcher.log").write_text("of yesterday")
    _Heard(Works(), tmp_path / "launcher.log").launch([["seed=1"]], 0)
    assert heard == [7]
    assert not list(tmp_path.iterdir())
