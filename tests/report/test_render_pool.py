"""Each report starts its own worker processes, and ends them."""

import psutil
from loky.process_executor import ProcessPoolExecutor

from layerprune.report import draw
from layerprune.report.figures import render_pool


def workers():
    children = psutil.Process().children(recursive=True)
    return {each.pid for each in children if "popen_loky" in " ".join(each.cmdline())}


def test_no_worker_outlives_its_report(maker, monkeypatch):
    # Other tests keep the workers between reports.
    monkeypatch.setattr(render_pool, "ProcessPoolExecutor", ProcessPoolExecutor)
    maker.curve(counts=(0, 4))
    before = workers()
    report = draw(maker.study)
    assert [path for path in report.written if path.suffix == ".svg"]
    assert workers() <= before
