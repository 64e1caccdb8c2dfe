"""Studies without a run."""

from pathlib import Path

import pytest
from studies import Maker


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "study")
