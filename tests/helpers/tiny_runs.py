"""Complete runs on a tiny model."""

from layerprune.config.compose import compose
from layerprune.run import pipeline


def tiny_config(tmp_path, tiny_folder, tiny_tasks, *overrides):
    return compose(
        "model=custom",
        f"model.path={tiny_folder}",
        f"eval.include_path={tiny_tasks}",
        "eval.trust_task_code=true",
        "eval.tasks=[letters]",
        "data.sequence_length=32",
        "data.calibration_sequences=8",
        "data.heldout_sequences=4",
        f"runtime.outputs={tmp_path / 'outputs'}",
        "study=tiny",
        *overrides,
    )


def run_tiny(tmp_path, tiny_folder, tiny_tasks, *overrides):
    return pipeline.run(tiny_config(tmp_path, tiny_folder, tiny_tasks, *overrides))
