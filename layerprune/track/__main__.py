"""`python -m layerprune.track outputs/STUDY`: send a study's records to Weights & Biases."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from layerprune.config.schema import TrackerConfig, TrackerMode
from layerprune.errors import ExitStatus, print_anything
from layerprune.track.sync import mirror, recorded_tracker


def main(arguments: Sequence[str] | None = None) -> int:
    """Send every named study; return 2 after an error of the user's, 1 if W&B failed, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m layerprune.track",
        description="Send the records of a study that Weights & Biases lacks: one run per point "
        "and one per curve. Without options, to where its newest record was sent. Needs no model.",
    )
    parser.add_argument(
        "study", nargs="+", type=Path, metavar="outputs/STUDY", help="folder of a study"
    )
    parser.add_argument("--mode", choices=["online", "offline"], help="to the server, or to files")
    parser.add_argument("--project", metavar="NAME")
    parser.add_argument("--entity", metavar="NAME", help="user or team; yours by default")
    parser.add_argument("--all", action="store_true", help="send every record again")
    options = parser.parse_args(arguments)
    status = ExitStatus()
    for study in options.study:
        with status.catch():
            recorded = recorded_tracker(study)
            tracker = TrackerConfig(
                mode=TrackerMode(options.mode or recorded.mode),
                project=options.project or recorded.project,
                entity=options.entity or recorded.entity,
            )
            result = mirror(study, tracker, everything=options.all)
            if result.error:
                status.value = max(status.value, 1)
                continue
            place = f"in {study / 'wandb'}"
            if tracker.mode is TrackerMode.online:
                place = f"on W&B, project {tracker.project}"
            print(f"{study}: {result.sent} runs sent, {result.kept} already there, {place}.")
    return status.value


if __name__ == "__main__":
    print_anything()
    sys.exit(main())
