"""A sweep's jobs as `JobComposer` composes them, against Hydra's own composition of each."""

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

from layerprune.config.compose import conf_dir, typed
from layerprune.config.sweeper import PLUGIN, JobComposer
from layerprune.errors import UserError


@pytest.fixture
def grid():
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration(
            "config", overrides=["hydra.verbose=false"], run_mode=RunMode.MULTIRUN
        )
        yield JobComposer(loader, master)


def by_hydra(grid, overrides):
    composed = grid._loader.load_sweep_config(grid._config, overrides)
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
    ["heal.recipe=lora", "heal.steps=3"],
    ["model.path=/some/model", "heal=lora"],
    ["model=gpt2", "model.path=/some/model", "study=x"],
    ["model=org/name", "study=x"],
]


def test_jobs_are_those_that_hydra_composes(grid):
    made = [grid.compose(job) for job in JOBS]
    for overrides, composed in zip(JOBS, made, strict=True):
        expected = by_hydra(grid, overrides)
        assert OmegaConf.to_yaml(composed) == OmegaConf.to_yaml(expected), overrides
        assert typed(composed) == typed(expected)


def test_an_option_applies_to_the_choices_that_have_it(grid):
    heal = ("heal=none", "heal=lora", "heal=linear")
    jobs = [[recipe, f"heal.steps={steps}"] for recipe in heal for steps in (2, 40)]
    assert grid.expand(jobs) == [
        ["heal=none"],
        ["heal=lora", "heal.steps=2"],
        ["heal=lora", "heal.steps=40"],
        ["heal=linear"],
    ]
    tokens = [["metric=cosine", "metric.tokens=all"], ["metric=random", "metric.tokens=all"]]
    assert grid.expand(tokens) == [tokens[0], ["metric=random"]]
    # What no job of the sweep has, and what is added by force, is refused.
    for wrong in ("heal.steps=3", "heal.stepz=3"):
        assert grid.expand([["heal=none", wrong]]) == [["heal=none", wrong]]
        with pytest.raises(OmegaConfBaseException):
            grid.compose(["heal=none", wrong])
    with pytest.raises(OmegaConfBaseException):
        grid.expand([["heal=none", "+heal.steps=3"], ["heal=lora", "+heal.steps=3"]])


def test_models_by_path_and_single_values_are_expanded(grid):
    assert grid.expand([["model=a/b", "eval.tasks=x"], ["model=gpt2", "eval.tasks=x"]]) == [
        ["model=custom", "model.path=a/b", "eval.tasks=[x]"],
        ["model=gpt2", "eval.tasks=[x]"],
    ]


def test_files_are_read_once_for_jobs_that_choose_the_same(grid, monkeypatch):
    loader = grid._loader
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
    values = [each.prune.fraction for each in map(grid.compose, jobs)]
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
        grid.compose(overrides)


def test_keys_within_one_that_is_null_are_refused_in_a_line(grid):
    with pytest.raises(UserError, match=r"within one that is null, like model\.shape"):
        grid.compose(["model=phi3_mini", "model.shape.num_hidden_layers=4"])


class Task:
    """Plans the batches that it is given, and keeps what it hears of."""

    def __init__(self, *batches):
        self._batches = list(batches)
        self.runs, self.results, self.failures, self.configs = [], [], [], []

    def plan_jobs(self, composed):
        self.planned = [config.seed for config in composed]
        return self._batches

    def run_batch(self, numbers, composed):
        self.runs.append((HydraConfig.get().job.num, list(numbers), composed.seed))
        self.configs.append(weakref.ref(composed))
        if composed.seed == 1:
            raise ValueError("this one fails")
        return composed.seed

    def on_result(self, result):
        self.results.append(result)

    def on_launcher_failure(self, reason):
        self.failures.append(reason)


@pytest.fixture
def sweep(tmp_path):
    """Run a sweep over seeds with a task, and with Hydra's own launcher or the one given."""

    def run(task, arguments, launcher=None, **options):
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none"]
            sweeper = Plugins.instance().class_name_to_class[PLUGIN](
                **{"max_batch_size": None, **options}
            )
            sweeper.setup(
                hydra_context=HydraContext(config_loader=loader, callbacks=Callbacks()),
                task_function=task,
                config=loader.load_configuration(
                    "config", [*quiet, f"hydra.sweep.dir={tmp_path}"], run_mode=RunMode.MULTIRUN
                ),
            )
            if launcher is not None:
                sweeper.launcher = launcher
            return sweeper.sweep(arguments)

    return run


def test_all_jobs_are_planned_and_batches_run_in_this_process(sweep, tmp_path):
    task = Task([2, 0], [3])
    sweep(task, ["seed=0,2,3,4"])
    assert task.planned == [0, 2, 3, 4]
    assert task.runs == [(0, [2, 0], 3), (2, [3], 4)]
    assert task.results == [3, 4]
    # Hydra keeps the configuration of each job, of those too that ran within another's batch.
    assert (tmp_path / "multirun.yaml").is_file()
    assert len(list((tmp_path / "jobs").glob("*/.hydra/config.yaml"))) == 3


def test_finished_jobs_keep_nothing_of_their_configuration(sweep):
    task = Task([0], [1], [2])
    with pytest.raises(ValueError, match="this one fails"):
        sweep(task, ["seed=0,1,2"])
    gc.collect()
    assert task.results == [0, 2]
    assert all(config() is None for config in task.configs)


class Launcher:
    """A launcher that returns a result for each job, or fails as submitit does of a killed job."""

    def __init__(self, *results, fails_with=None):
        self._results = list(results)
        self._fails_with = fails_with
        self.chunks = []

    def launch(self, job_overrides, initial_job_idx):
        self.chunks.append((initial_job_idx, len(job_overrides)))
        if self._fails_with is not None:
            raise RuntimeError(*self._fails_with)
        return [self._results.pop(0) for _ in job_overrides]


def completed(value):
    return JobReturn(status=JobStatus.COMPLETED, _return_value=value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("Job (task=0) failed with trace:\n----\n  it was killed",), "---- it was killed. "),
        ((), "RuntimeError"),
    ],
)
def test_a_launcher_that_fails_is_reported_and_ends_no_sweep(sweep, tmp_path, words, message):
    task = Task([0])
    sweep(task, ["seed=1"], Launcher(fails_with=words))
    (reason,) = task.failures
    assert reason.startswith("The launcher failed: RuntimeError")
    assert message in reason
    assert "\n" not in reason
    assert "RuntimeError" in (tmp_path / "launcher.log").read_text()
    assert task.results == []


def test_a_job_that_raised_keeps_no_other_result_back(sweep):
    failed = JobReturn(status=JobStatus.FAILED, _return_value=RuntimeError("it fell over"))
    task = Task([0], [1])
    with pytest.raises(RuntimeError, match="it fell over"):
        sweep(task, ["seed=1,2"], Launcher(failed, completed(7)))
    assert task.results == [7]


def test_a_launcher_that_works_leaves_nothing_of_an_earlier_failure(sweep, tmp_path):
    (tmp_path / "launcher.log").write_text("of yesterday")
    task = Task([0])
    sweep(task, ["seed=1"], Launcher(completed(7)))
    assert task.results == [7]
    assert [path.name for path in tmp_path.iterdir()] == ["multirun.yaml"]


def test_launched_jobs_go_in_chunks_and_in_the_order_of_the_plan(sweep):
    task, launcher = Task([2], [0, 1]), Launcher(*map(completed, "abc"))
    sweep(task, ["seed=0,1,2"], launcher, max_batch_size=2)
    assert launcher.chunks == [(0, 2), (2, 1)]
    assert task.results == ["a", "b", "c"]
