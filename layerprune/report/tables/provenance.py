"""The provenance of a study: what to know to reproduce it, as names and values."""

from collections.abc import Iterable, Sequence

from layerprune.analysis.curves import Curve
from layerprune.prune.distance_matrix import DistanceMatrix
from layerprune.prune.reference import agreement, reference
from layerprune.record.point import Point

BLOCKS = "the paper's blocks"


def provenance_facts(
    curves: Sequence[Curve], profiles: Iterable[tuple[str, DistanceMatrix]]
) -> list[tuple[str, list[str]]]:
    """Return for each name the different values of the study's points."""
    profiles = list(profiles)
    points = [point for curve in curves for point in curve.points]
    times = sorted(point.provenance.time for point in points)
    seconds = sum(point.costs.total_seconds for point in points)
    # Points that one training healed have the same steps: it counts once.
    healings = {
        (healing.recipe, healing.steps, healing.together or point.key): healing
        for point in points
        if (healing := point.healing) is not None
    }
    healing_seconds = sum(
        healing.prepare_seconds + healing.seconds for healing in healings.values()
    )
    more = f" and {healing_seconds:,.0f} s of healing" if healing_seconds else ""
    settings = dict.fromkeys(
        name
        for point in points
        for name in point.settings
        if name not in ("schema", "prune.count", "prune.layers")
    )
    calibration = [
        f"{model}: {profile.num_sequences} sequences (distances {profile.key})"
        for model, profile in profiles
    ]
    blocks = agreements(profiles)
    unshared = _distinct(text for point in points if (text := _unshared(point)) is not None)
    software = [point.provenance.software for point in points]
    versions = (
        f"{name} {' or '.join(_distinct(of.get(name, '(absent)') for of in software))}"
        for name in dict.fromkeys(name for of in software for name in of)
    )
    return [
        ("arguments", _distinct(point.provenance.command_line or "(none)" for point in points)),
        ("points", [f"{len(points)}, which took {seconds:,.0f} s of evaluation{more}"]),
        ("when", [times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}"]),
        ("questions", _distinct(_benchmark(point) for point in points)),
        # Plans that were made without a matrix have no distances.
        *([("calibration", calibration)] if calibration else []),
        *([(BLOCKS, blocks)] if blocks else []),
        *((name, _distinct(point.settings.get(name, "") for point in points)) for name in settings),
        ("commit", _distinct(point.provenance.commit or "(unknown)" for point in points)),
        ("machine", _distinct(point.provenance.machine for point in points)),
        *([("prompts", unshared)] if unshared else []),
        ("device", _distinct(point.provenance.device for point in points)),
        ("versions", [", ".join(versions)]),
    ]


def agreements(profiles: Iterable[tuple[str, DistanceMatrix]]) -> list[str]:
    """Return for each of the paper's models how near its blocks come to the authors' blocks.

    Only distances by the paper's own metric are compared.
    """
    return [text for model, profile in profiles if (text := _agreement(model, profile)) is not None]


def _benchmark(point: Point) -> str:
    return "; ".join(
        f"{answers.task} (version {answers.version}): {answers.num_samples:,}, "
        f"{answers.num_fewshot} few-shot examples before each"
        for answers in point.task_scores.values()
        if answers.parent is None
    )


def _unshared(point: Point) -> str | None:
    """Return why prompts ran one by one, and what that cost; None if they shared tokens."""
    sharing = point.provenance.prompt_sharing
    if sharing.cost is None:
        return None
    why = (
        "their decoder cannot run token trees"
        if sharing.difference is None
        else f"states in a token tree differ by {sharing.difference:.2g} of their norm"
    )
    return (
        f"{point.model.name}: evaluated one by one, since {why}: {sharing.cost:.1f} times the "
        "tokens of prompts that share their beginnings"
    )


def _agreement(model: str, profile: DistanceMatrix) -> str | None:
    metric = profile.depends_on.get("metric"), profile.depends_on.get("metric_tokens")
    authors = reference(model, len(profile.distances) - 1)
    if authors is None or metric != ("angular", "last"):
        return None
    match = agreement(authors, profile.matrix)
    here, theirs = (" ".join(map(str, starts)) for starts in (match.starts, authors.starts))
    return (
        f"{model} (distances {profile.key}): of the {match.of} blocks that the authors removed, "
        f"{match.exact} exact, {match.within_one} within one layer, {match.furthest} layers off at "
        f"most. l*(n), n = 1 to {match.of}, here: {here}; the authors': {theirs}"
    )


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
