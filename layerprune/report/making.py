"""With what a study was made, as names and values to be read."""

from collections.abc import Iterable, Sequence

from layerprune.plan.reference import agreement, reference
from layerprune.report.curves import Curve
from layerprune.report.entry import Entry
from layerprune.similarity.profile import Profile

BLOCKS = "the paper's blocks"


def making(
    curves: Sequence[Curve], profiles: Iterable[tuple[str, Profile]]
) -> list[tuple[str, list[str]]]:
    """What to know to make a study again: for each name, the different values of its points."""
    profiles = list(profiles)
    entries = [entry for curve in curves for entry in curve.entries]
    times = sorted(entry.origin.time for entry in entries)
    seconds = sum(entry.origin.seconds for entry in entries)
    healings = [entry.healing for entry in entries if entry.healing is not None]
    healing = sum(each.prepare_seconds + each.seconds for each in healings)
    more = f" and {healing:,.0f} s of healing" if healing else ""
    settings = dict.fromkeys(
        name
        for entry in entries
        for name in entry.settings
        if name not in ("schema", "prune.count", "prune.layers")
    )
    calibration = [
        f"{model}: {profile.num_sequences} sequences (distances {profile.key})"
        for model, profile in profiles
    ]
    blocks = agreements(profiles)
    versions = dict.fromkeys(name for entry in entries for name in entry.origin.versions)
    return [
        ("arguments", _distinct(entry.origin.arguments or "(none)" for entry in entries)),
        ("points", [f"{len(entries)}, which took {seconds:,.0f} s of questions and text{more}"]),
        ("when", [times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}"]),
        ("questions", _distinct(_asked(entry) for entry in entries)),
        # Plans that were made step by step have no distances.
        *([("calibration", calibration)] if calibration else []),
        *([(BLOCKS, blocks)] if blocks else []),
        *(
            (name, _distinct(entry.settings.get(name, "") for entry in entries))
            for name in settings
        ),
        ("commit", _distinct(entry.origin.commit or "(unknown)" for entry in entries)),
        ("machine", _distinct(entry.origin.machine for entry in entries)),
        ("device", _distinct(entry.origin.device for entry in entries)),
        (
            "versions",
            [
                ", ".join(
                    f"{name} {' or '.join(_distinct(_version(entry, name) for entry in entries))}"
                    for name in versions
                )
            ],
        ),
    ]


def agreements(profiles: Iterable[tuple[str, Profile]]) -> list[str]:
    """How near the blocks come to those of the paper's authors: a text for each of their models.

    Only the paper's own metric is held against theirs.
    """
    return [said for each in profiles if (said := _agreement(*each)) is not None]


def _asked(entry: Entry) -> str:
    tasks = [answers for answers in entry.answers.values() if answers.parent is None]
    return "; ".join(
        f"{each.task} (version {each.version}): {each.num_samples:,}, "
        f"{each.num_fewshot} solved examples before each"
        for each in tasks
    )


def _agreement(model: str, profile: Profile) -> str | None:
    settings = profile.depends_on
    known = reference(model, len(profile.distances) - 1)
    if known is None or (settings.get("metric"), settings.get("metric_tokens")) != (
        "angular", "last"
    ):  # fmt: skip
        return None
    found = agreement(known, profile.matrix)
    here, theirs = (" ".join(map(str, starts)) for starts in (found.starts, known.starts))
    return (
        f"{model} (distances {profile.key}): of the {found.of} blocks that the authors dropped, "
        f"{found.exact} exact, {found.within_one} within one layer, {found.furthest} layers off at "
        f"most. l*(n), n = 1 to {found.of}, here: {here}; the authors': {theirs}"
    )


def _version(entry: Entry, name: str) -> str:
    return entry.origin.versions.get(name, "(absent)")


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
