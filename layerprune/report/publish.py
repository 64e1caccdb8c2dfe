"""Write the files of a report: the page, its figures, and tables to publish."""

from pathlib import Path

from layerprune.config.schema import FigureWidth
from layerprune.report import Report
from layerprune.report.figures.render_pool import RenderPool
from layerprune.report.figures.study_figures import make_figures
from layerprune.report.page import make_page
from layerprune.report.tables.critical import critical_csv, critical_latex, critical_markdown
from layerprune.report.tables.curve_rows import HEADER, write_parquet
from layerprune.report.tables.text_table import to_csv
from layerprune.runtime.atomic_files import replacing, write_text
from layerprune.runtime.progress import progress_bar


def write_report(report: Report, pool: RenderPool, width: FigureWidth) -> None:
    """Write all files of a report, and add their paths to `report.written`."""
    figures = make_figures(report.curves, report.tasks, report.profiles, report.searches)
    pending = pool.submit(figures, width)
    tables = _write_tables(report)  # while figures are drawn
    images, files = [], []
    with progress_bar(f"{report.study.name} report", total=len(pending)) as advance:
        for figure, drawing in pending:
            image = drawing.result()
            images.append((figure, image.data_uri))
            svg, png, pdf, numbers = (
                report.study / "figures" / f"{figure.name}.{kind}"
                for kind in ("svg", "png", "pdf", "csv")
            )
            write_text(svg, image.svg)
            for path, content in ((png, image.png), (pdf, image.pdf)):
                with replacing(path) as beside:
                    beside.write_bytes(content)
            write_text(numbers, figure.csv())
            files += [svg, png, pdf, numbers]
            advance(1)
    page = report.study / "report.html"
    write_text(page, make_page(report, images, pool.bundle.result()))
    report.written.extend([page, *tables, *files])


def _write_tables(report: Report) -> list[Path]:
    parquet = report.study / "curves.parquet"
    with replacing(parquet) as beside:
        write_parquet(report.rows, beside)
    texts = {
        "curves.csv": to_csv(report.rows, HEADER),
        "critical.csv": critical_csv(report.critical),
        "critical.md": critical_markdown(report.critical),
        "critical.tex": critical_latex(report.critical),
    }
    for name, text in texts.items():
        write_text(report.study / name, text)
    return [parquet, *(report.study / name for name in texts)]
