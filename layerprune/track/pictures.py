"""The figures of single curves, as the report draws them, for their runs."""

import re
from collections.abc import Mapping
from pathlib import Path

from layerprune.record.store import Store
from layerprune.report import read_entries, read_profiles
from layerprune.report.curves import make_curves, make_tasks
from layerprune.track.runs import Run

DRAWN = ("accuracy-", "loss", "healing")
"""What the names of a curve's own figures begin with; the others compare curves."""

HEAT_MAP = "distances-"


class Pictures:
    """Draws what the runs of a study show. Records are read once, and a heat-map is drawn once."""

    def __init__(self, study: Path, folder: Path) -> None:
        store = Store(study)
        entries, _ = read_entries(store)
        profiles, _ = read_profiles(store, entries)
        self._curves = {curve.first.curve_key: curve for curve in make_curves(entries)}
        self._profiles = {profile.key: (model, profile) for model, profile in profiles}
        self._folder = folder
        # A heat-map's name is that of what is in it: the report's own may be taken.
        names = (f"{HEAT_MAP}{key}" for key in self._profiles)
        self._heat_maps = {
            name: path for name in names if (path := study / "figures" / f"{name}.png").is_file()
        }

    def of(self, run: Run) -> Mapping[str, Path]:
        """PNG files for a curve's run, by what they are called there; none for another run."""
        if run.kind != "curve" or run.curve not in self._curves:
            return {}
        import vl_convert  # only where something is drawn, as everything that draws

        from layerprune.report.figures import make_figures

        curve = self._curves[run.curve]
        maps = [f"{HEAT_MAP}{entry.profile}" for entry in curve.entries]
        maps = [
            name for name in dict.fromkeys(maps) if name.removeprefix(HEAT_MAP) in self._profiles
        ]
        new = [
            self._profiles[name.removeprefix(HEAT_MAP)]
            for name in maps
            if name not in self._heat_maps
        ]
        pictures = {}
        for figure in make_figures([curve], make_tasks([curve]), new):
            if figure.name.startswith((*DRAWN, HEAT_MAP)):
                path = self._folder / f"{run.id}-{figure.name}.png"
                path.write_bytes(vl_convert.svg_to_png(figure.svg(), scale=2))
                if figure.name.startswith(HEAT_MAP):
                    self._heat_maps[figure.name] = path
                else:
                    pictures[re.sub(r"\W+", "_", f"plot_{figure.name}")] = path
        for name in maps:
            key = "distances" if len(maps) == 1 else re.sub(r"\W+", "_", name)
            pictures[key] = self._heat_maps[name]
        return pictures
