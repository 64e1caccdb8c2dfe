"""Points of one curve together, and the questions that they were asked."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from layerprune.report.entry import Answers, Entry

UNHEALED = "none"
"""The recipe that does nothing."""

NAMED = "given"
"""The strategy of points whose layers the user named: no rule joins them."""

SHOWN = 16
"""Characters of a setting in a curve's name, and so many more as long as others begin alike."""

JOINT = " · "
"""Between the parts of a curve's name."""


@dataclass(frozen=True)
class Curve:
    """The points that differ in nothing but the layers dropped."""

    label: str
    """What sets it apart from the study's other curves."""
    short: str
    """The same without the model's name."""
    hue: str
    """What its colour stands for."""
    mark: str
    """What its point's shape stands for."""
    entries: tuple[Entry, ...]
    """By rising number of layers dropped."""
    dense: Entry | None
    """The whole model, not healed, on the same questions, perhaps from another curve."""

    @property
    def first(self) -> Entry:
        """Any of its points, for what they have in common."""
        return self.entries[0]


@dataclass(frozen=True)
class Task:
    """A task or group of tasks that has an accuracy."""

    name: str
    parent: str | None
    children: tuple[str, ...]
    """The tasks and groups counted in it, in lm-eval's order."""
    num_subjects: int
    """Tasks counted in it, in groups within groups too."""
    num_samples: tuple[int, ...]
    """Questions asked: one number, unless the study's curves differ."""
    measure: str
    """lm-eval's name of its accuracy: acc, exact_match, ..."""
    chances: tuple[float, ...]
    """Accuracies of guessing evenly, likewise; none where there are no options."""

    @property
    def size(self) -> str:
        """How many questions of how many subjects, in words."""
        low, high = self.num_samples[0], self.num_samples[-1]
        questions = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        subjects = f" ({self.num_subjects} subjects)" if self.num_subjects > 1 else ""
        return f"{questions} question{'' if high == 1 else 's'}{subjects}"


def make_curves(entries: Iterable[Entry]) -> list[Curve]:
    """The curves of a study, in an order that depends on their content alone."""
    together: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        together[entry.curve_key].append(entry)
    groups = sorted((sorted(group, key=_depth) for group in together.values()), key=_rank)
    # A whole model may still have been healed, which is no reference for others.
    whole = {
        entry.ground: entry
        for group in reversed(groups)
        for entry in group
        if not entry.dropped and entry.heal == UNHEALED
    }
    firsts = [group[0] for group in groups]
    names = _names(firsts)
    return [
        Curve(*name, entries=tuple(group), dense=whole.get(group[0].ground))
        for name, group in zip(names, groups, strict=True)
    ]


def make_tasks(curves: Iterable[Curve]) -> list[Task]:
    """Every task and group that has an accuracy, in the order they were asked."""
    found: dict[str, list[Answers]] = defaultdict(list)
    for curve in curves:
        for entry in curve.entries:
            for answers in entry.answers.values():
                if answers.accuracy is not None:
                    found[answers.task].append(answers)
    children = {
        name: tuple(child for child, of in found.items() if of[0].parent == name) for name in found
    }
    return [
        Task(
            name,
            answers[0].parent,
            children[name],
            _num_leaves(name, children),
            tuple(sorted({each.num_samples for each in answers})),
            str(answers[0].measure),
            tuple(sorted({each.chance for each in answers if each.chance})),
        )
        for name, answers in found.items()
    ]


def _num_leaves(name: str, children: dict[str, tuple[str, ...]]) -> int:
    """Tasks below a group; 1 for a task itself."""
    below = {name}
    while (more := below | {child for each in below for child in children[each]}) != below:
        below = more
    return sum(not children[each] for each in below)


def _names(firsts: Sequence[Entry]) -> list[tuple[str, str, str, str]]:
    """Label, label without model, hue and mark of each curve: as short as tells them apart."""
    models = _vary(entry.model for entry in firsts)
    heals = {entry.heal for entry in firsts}
    rules = [_rule(entry, firsts) for entry in firsts]
    parts = [
        [
            rule,
            *([entry.heal if entry.heal != UNHEALED else "not healed"] if len(heals) > 1 else []),
        ]
        for entry, rule in zip(firsts, rules, strict=True)
    ]
    names = []
    for entry, rule, part in zip(firsts, rules, parts, strict=True):
        same = [
            each
            for each, other in zip(firsts, parts, strict=True)
            if (each.model, other) == (entry.model, part)
        ]
        extras = _extras(entry, same)
        # Curves that differ in their seed only are repeats of one another: of one colour.
        hue = [entry.model if models else rule, *(said for name, said in extras if name != "seed")]
        if len(heals - {UNHEALED}) > 1 and entry.heal != UNHEALED:
            hue.append(entry.heal)  # solid and dotted lines tell only healed from not healed
        short = [*part, *(said for _, said in extras)]
        label = [entry.model, *short] if models else short
        names.append((_join(label), _join(short), _join(hue), rule))
    return names


def _rule(entry: Entry, firsts: Sequence[Entry]) -> str:
    metrics = _vary(each.metric for each in firsts)
    return _join([entry.strategy, entry.metric] if metrics else [entry.strategy])


def _extras(entry: Entry, same: Sequence[Entry]) -> list[tuple[str, str]]:
    """The settings in which curves of the same name differ, and how they are said."""
    found = []
    for name, value in entry.settings.items():
        values = {each.settings.get(name, "") for each in same}
        if not name.startswith("prune.") and len(values) > 1:
            said = f"seed {value}" if name == "seed" else f"{name}={_told_apart(value, values)}"
            found.append((name, said))
    return found


def _told_apart(value: str, values: Collection[str]) -> str:
    """As much of a value as others do not begin with, and not less than they show of theirs."""
    length = SHOWN
    while len({each[:length] for each in values}) < len(values):
        length += SHOWN
    return value[:length]


def _vary(values: Iterable[object]) -> bool:
    return len(set(values)) > 1


def _join(parts: Sequence[str]) -> str:
    return JOINT.join(parts)


def _depth(entry: Entry) -> tuple[int, tuple[int, ...], str]:
    return entry.num_dropped, entry.dropped, entry.key


def _rank(group: Sequence[Entry]) -> tuple[object, ...]:
    first = group[0]
    # Not healed before healed, whatever the recipe is called.
    healed = first.heal != UNHEALED
    name = first.model, first.metric, first.strategy, healed, first.heal, first.seed
    settings = [
        (key, _counting(value))
        for key, value in sorted(first.settings.items())
        if not key.startswith("prune.")
    ]
    return *name, settings, first.curve_key


def _counting(text: str) -> list[str | int]:
    """A text to be sorted by, such that 8 comes before 64."""
    parts = re.split("([0-9]+)", text)
    return [int(part) if at % 2 else part for at, part in enumerate(parts)]
