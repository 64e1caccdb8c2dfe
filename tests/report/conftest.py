"""Studies without a run, for the report."""

from pathlib import Path

import pytest
from studies import Maker

from layerprune.report import draw


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "study")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """A study of two curves whose report is there; tests leave it as it is."""
    maker = Maker(tmp_path_factory.mktemp("drawn") / "study")
    maker.curve("block", counts=(0, 2, 4))
    maker.curve("deepest", counts=(0, 2))
    maker.profile()
    draw(maker.study)
    return maker
