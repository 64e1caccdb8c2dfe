"""The table of docs/faults.md: faults of a run, its last message, and the state afterwards."""

from pathlib import Path

import pytest
from faults.running import Ended, shown

PAGE = Path(__file__).parent.parent.parent / "docs" / "faults.md"
BEGIN, END = "<!-- written by make test-faults -->", "<!-- end -->"
HEAD = ("where", "fault", "the run says", "afterwards")


class Seen:
    """Collects the rows of a test."""

    def __init__(self, keep, folder: Path) -> None:
        self._keep = keep
        self._folder = folder

    def __call__(self, where: str, fault: str, said: Ended | str, afterwards: str) -> None:
        """Keep a row; for a run, with the last line that it printed."""
        if isinstance(said, Ended):
            assert "Traceback" not in said.said, said.said
            said = said.last or "nothing"
        self._keep("fault", (where, fault, shown(said, self._folder), afterwards))


def _faults(page: str) -> list[tuple[str, ...]]:
    """Return all cells except the messages, which contain words of the operating system."""
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return [(row[0], row[1], row[-1]) for row in rows]


class Table:
    """Collects the rows of a run of the suite, and compares them with the page."""

    def __init__(self, config) -> None:
        self._config = config
        self._lines: dict[str, tuple[str, ...]] = {}
        self._whole = True
        self.wrong = ""

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report) -> None:
        if report.failed or report.skipped:
            self._whole = False
        if report.when == "call":
            for name, line in report.user_properties:
                if name == "fault":
                    self._lines[report.nodeid] = tuple(line)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session, exitstatus) -> None:
        asked = self._config.option
        all_ = {Path(each).resolve() for each in self._config.args} == {Path(__file__).parent}
        if not all_ or asked.keyword or asked.markexpr or not self._whole:
            return
        text = PAGE.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        written = f"{before}{BEGIN}\n\n{self.markdown()}\n\n{END}{after}"
        if asked.write_faults:
            PAGE.write_text(written, encoding="utf-8")
        elif _faults(written) != _faults(text):
            self.wrong = "docs/faults.md is not what was seen: make faults-table"
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter) -> None:
        if self._lines:
            terminalreporter.write_line(f"{len(self._lines)} faults")
        if self.wrong:
            terminalreporter.write_line(self.wrong, red=True)

    def markdown(self) -> str:
        rows = sorted(self._lines.values())
        cells = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
        head = f"| {' | '.join(HEAD)} |\n|{':--|' * len(HEAD)}"
        return f"{len(rows)} faults.\n\n{head}\n" + "\n".join(f"| {each} |" for each in cells)
