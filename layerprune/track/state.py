"""What has been sent of a study, and where to: `outputs/STUDY/wandb/mirrored.json`."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from layerprune.config.schema import TrackerMode
from layerprune.files import read_sealed, write_sealed
from layerprune.track.runs import Run


@dataclass(frozen=True)
class Sent:
    """A run as it was sent last."""

    content: str
    """Hash of what was in it."""
    mode: str
    """`offline`: written to a folder beside the state. `online`: on the server."""
    to: str
    """ENTITY/PROJECT."""
    sent_as: str
    """Its id there: that of the run, unless the server had another content under it."""


@dataclass
class State:
    """Which runs are where, by id."""

    folder: Path
    """`outputs/STUDY/wandb`."""
    runs: dict[str, Sent] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "State":
        """The state of that folder; an empty one where nothing was sent, or it is damaged."""
        state = cls(folder)
        try:
            content = read_sealed(state.path)
            state.runs = {name: Sent(**sent) for name, sent in content["runs"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            pass  # everything is sent again
        return state

    def write(self) -> None:
        """Keep the state, whole or not at all."""
        runs = {name: asdict(sent) for name, sent in self.runs.items()}
        write_sealed(self.path, {"schema": 1, "runs": runs})

    @property
    def path(self) -> Path:
        """Of the file."""
        return self.folder / "mirrored.json"

    def missing(self, runs: list[Run], mode: TrackerMode, to: str) -> list[Run]:
        """The runs whose content is not there yet; what is on the server is not written offline."""
        written = {name.rpartition("-")[2] for name in self.folders()}
        missing = []
        for run in runs:
            sent = self.runs.get(run.id)
            there = (
                sent is not None
                and sent.content == run.content
                and sent.to == to
                and (
                    sent.mode == TrackerMode.online.value
                    or (mode is TrackerMode.offline and sent.sent_as in written)
                )
            )
            if not there:
                missing.append(run)
        return missing

    def folders(self) -> list[str]:
        """Names of the folders of runs, oldest first."""
        try:
            names = [path.name for path in self.folder.iterdir()]
        except OSError:
            return []
        return sorted(name for name in names if name.startswith(("offline-run-", "run-")))
