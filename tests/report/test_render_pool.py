"""Each report starts its own worker processes, and ends them."""

import psutil
import pytest

from layerprune.report import draw


@pytest.fixture(scope="module", autouse=True)
def kept_workers():
    """Use the pool as it is, which other tests do not."""


def workers():
    children = psutil.Process().children(recursive=True)
    return {each.pid for each in children if "popen_loky" in " ".join(each.cmdline())}


def test_no_worker_outlives_its_report(maker):
    maker.curve(counts=(0, 4))
    before = workers()
    report = draw(maker.study)
    assert [path for path in report.written if path.suffix == ".svg"]
    assert workers() <= before
