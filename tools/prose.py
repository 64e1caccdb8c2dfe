"""Check the prose of the documentation: worn phrases, American spellings, long sentences.

    python tools/prose.py [PAGE ...]

Prints FILE:LINE for each finding, and exits with status 1 if there is one. Code, tables, link
targets and what a command writes (a page or a part of it) are left out.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "experiments/*.md")
"""Patterns of the pages that are checked when none is given."""

LONGEST = 40
"""Words of a sentence."""

PHRASES = {
    # Turns that hide who does what.
    r"but for": "except",
    r", so that": "so, or a new sentence",
    r"in the mean(?! of)": "on average",
    r"anew|(?:made|make|makes|making) again": "recomputed, retrained",
    r"as (?!it|they|we|you)[\w'-]+ (?:does|do|did)": "like X",
    r"of (?:its|their) own": "its own X",
    r"those of|that of": "repeat the noun",
    r"(?:is|are|was|were) (?:said|told)": "name who says it and where",
    r"(?:goes|go|went) on where": "resumes",
    r"to be seen": "shown, visible",
    r"at hand": "available",
    r"(?:is|are) (?:there already|already there)": "exists",
    # Words that the field does not use.
    r"whole models?|models? with all its layers": "dense model, unpruned model",
    r"(?:is|are|was|were|be) asked": "evaluated",
    r"(?:written|chosen) answers": "generation, multiple choice",
    r"solved examples?": "few-shot examples",
    r"guess(?:es|ing)? evenly|even guessing": "chance",
    r"giv(?:es?|ing|en) back": "recovers",
    r"layers go|layers that stay": "layers are removed, remaining layers",
    r"nearest blocks?": "most similar block",
    r"low-rank updates?|ranks? of the updates?": "LoRA adapters, LoRA rank",
    r"spill room": "memory budget",
    r"to the bit|comes? out the same": "bit-identical, reproducible",
    r"foretells?|foretold": "predict",
    r"a belief": "a posterior",
    r"teaching models?": "toy models",
    r"embedded (?:model|text|questions?)": "bundled",
    r"(?:a|an|one) [\w-]+ an? (?:GPU|job|metric|row|second|seed|subject|task)": "X per Y",
}

AMERICAN = (
    r"(?:un)?(?:color|behavior|neighbor|favor)\w*|center(?:s|ed)?|labeled|analyz\w+"
    r"|(?:re|un|de)?(?:general|initial|maxim|minim|normal|organ|optim|quant|recogn|serial)iz\w+"
)
"""The documentation is in British English; options and names of code keep their spelling."""

RULES = [
    (re.compile(rf"\b(?:{phrase})\b".replace(" ", r"\s+"), re.IGNORECASE), advice)
    for phrase, advice in {**PHRASES, AMERICAN: "British spelling"}.items()
]


def main(arguments: list[str]) -> int:
    """Print the findings of the given pages, or of all; return the exit status."""
    pages = [Path(name) for name in arguments] or sorted(
        path for pattern in PAGES for path in ROOT.glob(pattern)
    )
    count = 0
    for page in pages:
        for line, finding in sorted(findings(page.read_text())):
            count += 1
            name = page.relative_to(ROOT) if page.is_relative_to(ROOT) else page
            print(f"{name}:{line}: {finding}")
    return int(count > 0)


def findings(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the message of each finding in a page of Markdown."""
    for first, paragraph in paragraphs(text):
        for pattern, advice in RULES:
            for match in pattern.finditer(paragraph):
                line = first + paragraph.count("\n", 0, match.start())
                yield line, f'"{" ".join(match[0].split())}": {advice}'
        start = 0
        for sentence in re.split(r"(?<=[.?!:])[\"')*_]*\s+(?=[\"'(*_]*[A-Z0-9])", paragraph):
            start = paragraph.index(sentence, start)
            # A list of names counts once.
            words = re.findall(r"[\w'-]*\w[\w'-]*", re.sub(r"X(,\s+X)+", "X", sentence))
            if len(words) > LONGEST:
                line = first + paragraph.count("\n", 0, start)
                yield line, f"a sentence of {len(words)} words: {' '.join(words[:6])} ..."


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs, headings and list items of a page, with the line they start in."""
    head = text[:600]
    if re.search(r"[Ww]ritten\s+by\s+`make|`make [a-z-]+`\s+writes\s+this\s+page", head):
        return
    lines: list[str] = []
    for number, line in enumerate([*prose(text).splitlines(), ""], start=1):
        new = re.match(r"\s*([-*] |\d+\. |#)", line)
        if lines and (new or not line.strip() or lines[0].startswith("#")):
            yield number - len(lines), "\n".join(lines)
            lines = []
        if line.strip():
            lines.append(line)


def prose(text: str) -> str:
    """Return the page with everything else left out, line for line."""
    left_out = (
        r"(?ms)^ *(`{3,}|~{3,}).*?^ *\1$",  # code
        r"(?s)<!--[^>]*\bwritten by\b.*?<!-- end -->",  # what a command writes
        r"(?s)<!--.*?-->",
        r"(?m)(?:(?<=\n\n)|\A) {4,}(?![-*] |\d+\. )\S.*(?:\n(?: {4,}.*|(?=\n {4,}))$)*",  # code
        r"(?m)^ *\|.*$",  # tables
        r"!\[[^\]]*\]\([^)]*\)",  # pictures
    )
    for pattern in left_out:
        text = re.sub(pattern, blank, text)
    text = re.sub(r"\[([^\]]*)\]\([^)\s]*\)", r"\1", text)
    return re.sub(r"`[^`]*`", lambda code: "X" + blank(code), text)


def blank(match: re.Match[str]) -> str:
    """Return only the line breaks of a match."""
    return "\n" * match[0].count("\n")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
