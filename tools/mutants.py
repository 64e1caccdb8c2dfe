"""What `make mutants` found: changes of the code that tests notice, and that they do not."""

import json
import sys
from collections import Counter
from pathlib import Path

ENOUGH = 0.85

NOTICED = {1, 3, 24, 36, 37, -24, 152, 255}
"""By the exit status of the tests: an endless loop is noticed, too."""


def main() -> None:
    """Print the share of mutants that tests notice; exit status 1 where it is too small."""
    found: dict[str, int] = {}
    for path in Path("mutants").rglob("*.meta"):
        statuses = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        found |= {name: status for name, status in statuses.items() if status is not None}
    for name, status in sorted(found.items()):
        if status not in NOTICED:
            print(f"not noticed: {name}")
    of_files = Counter(name.rpartition(".")[0] for name in found)
    noticed = Counter(name.rpartition(".")[0] for name in found if found[name] in NOTICED)
    for name, count in sorted(of_files.items()):
        print(f"{noticed[name]:4d} of {count:4d}  {name}")
    counted = {"noticed": noticed.total(), "mutants": of_files.total()}
    Path("outputs").mkdir(exist_ok=True)
    Path("outputs/mutants.json").write_text(json.dumps(counted), encoding="utf-8")
    share = noticed.total() / max(1, of_files.total())
    print(f"{noticed.total()} of {of_files.total()} mutants are noticed: {share:.1%}")
    if share < ENOUGH:
        sys.exit(f"That is less than {ENOUGH:.0%}: `mutmut show NAME` says what was changed.")


if __name__ == "__main__":
    main()
