"""`python -m layerprune.track outputs/STUDY`: what is missing on Weights & Biases, from records."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from layerprune.config.schema import TrackerMode
from layerprune.errors import UserError
from layerprune.track.mirrored import mirror, recorded_tracker


def main(arguments: Sequence[str] | None = None) -> int:
    """Send every study named; 2 for what the user can mend, 1 if W&B failed, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m layerprune.track",
        description="Send what is missing of a study on Weights & Biases, one run a point and one "
        "a curve, from its records. What is there already is not sent again. Without options, to "
        "where its newest record was sent. Needs no model.",
    )
    parser.add_argument(
        "study", nargs="+", type=Path, metavar="outputs/STUDY", help="folder of a study"
    )
    parser.add_argument("--mode", choices=["online", "offline"], help="to the server, or to a file")
    parser.add_argument("--project", metavar="NAME")
    parser.add_argument("--entity", metavar="NAME", help="user or team; your own if not given")
    parser.add_argument("--all", action="store_true", help="what was sent before, too")
    asked = parser.parse_args(arguments)
    status = 0
    for study in asked.study:
        try:
            tracker = recorded_tracker(study)
        except UserError as error:
            print(f"layerprune: {error}", file=sys.stderr)
            status = 2
            continue
        if asked.mode is not None:
            tracker = replace(tracker, mode=TrackerMode(asked.mode))
        tracker = replace(
            tracker,
            project=asked.project or tracker.project,
            entity=asked.entity or tracker.entity,
        )
        done = mirror(study, tracker, everything=asked.all)
        if done.failed:
            status = status or 1
            continue
        where = f"in {study / 'wandb'}"
        if tracker.mode is TrackerMode.online:
            where = f"on W&B, project {tracker.project}"
        print(f"{study}: {done.sent} runs sent, {done.kept} were there already, {where}.")
    return status


if __name__ == "__main__":
    sys.exit(main())
