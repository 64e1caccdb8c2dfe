"""The same records by whatever runs the jobs."""

import pytest
from sweeping import curves, grid, results, sweep

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_other_launchers_give_the_same(
    tmp_path, models, tiny_tasks, presets, undisturbed, launcher
):
    extra = launcher.partition("_")[0]
    plugin = f"hydra_plugins.hydra_{extra}_launcher"
    pytest.importorskip(plugin, reason=f"layerprune[{extra}] is not here")
    listed = [each.replace("fraction=", "fraction=[") + "]" if "fraction" in each else each
              for each in grid(presets)]  # fmt: skip
    sweep(tmp_path, models, tiny_tasks, *listed, f"launcher={launcher}")
    assert curves(tmp_path) == curves(undisturbed)
    assert results(tmp_path) == results(undisturbed)
