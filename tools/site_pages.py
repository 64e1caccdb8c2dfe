"""The documentation site: the repository's own Markdown files, in the folders they have.

MkDocs calls these functions (`hooks` in mkdocs.yml). The pages keep their places, so that relative
links hold on the site as on GitHub. A link to a source file leads to a page that shows it.
"""

import json
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs").glob("*.ipynb")),
    *sorted((ROOT / "experiments").glob("*.md")),
]
PICTURES = {".png", ".svg"}
STYLE = ".md-grid { max-width: 76rem } .md-typeset td code { word-break: normal }"
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
LEXERS = {".py": "python", ".yaml": "yaml", ".json": "json", ".jsonl": "json"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name headings as GitHub does, and list all lab notes after their overview."""
    config.mdx_configs["toc"] = {"slugify": slugify(case="lower"), "permalink": True}
    notes = [path.name for path in PAGES if path.parent.name == "experiments"]
    (section,) = (section for section in config.nav or [] if "Lab notes" in section)
    section["Lab notes"] = [f"experiments/{name}" for name in notes if name != "README.md"]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take the pages, their pictures and the sources they link to from the whole repository."""
    site = Files([file for file in files if file.src_dir != config.docs_dir])  # the theme's
    site.append(File.generated(config, "site.css", content=STYLE))
    linked = {target for path in PAGES for target in targets(path) if target.exists()}
    for path in sorted({*PAGES, *linked}):
        if path.suffix in PICTURES:
            name = str(path.relative_to(ROOT))
            site.append(File.generated(config, name, abs_src_path=str(path)))
        else:
            content = read(path) if path in PAGES else show(path)
            site.append(File.generated(config, page_name(path), content=content))
    return site


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Say in Python-Markdown what GitHub's Markdown says; lead links of sources to their pages."""
    folder = (ROOT / page.file.src_uri).parent

    def lead(link: re.Match[str]) -> str:
        target = (folder / link[1]).resolve()
        if link[1].startswith("http") or not target.is_relative_to(ROOT) or not target.exists():
            return link[0]
        ending = "" if target.suffix in {".md", *PICTURES} else ".md"
        return f"]({link[1].rstrip('/')}{ending}{link[2] or ''})"

    return markdown if "~~~~" in markdown else LINK.sub(lead, outside_code(markdown))


def outside_code(markdown: str) -> str:
    """Drop badges; let a list follow a paragraph at once, and `<details>` hold Markdown."""
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    for index in range(0, len(parts), 2):
        text = re.sub(r"^\[?!\[.*(?:img\.shields\.io|/actions/).*\n", "", parts[index], flags=re.M)
        text = re.sub(r"^(?![-*|#>\s]|\d+\. )(.+)\n(?=- |1\. )", r"\1\n\n", text, flags=re.M)
        parts[index] = text.replace("<details>", '<details markdown="1">')
    return "".join(parts)


def targets(path: Path) -> set[Path]:
    """Return the files of the repository that a page links to or shows."""
    text = read(path)
    links = [link[1] for link in LINK.finditer(text)] + re.findall(r'<img src="([^"]+)"', text)
    found = {(path.parent / link).resolve() for link in links if not link.startswith("http")}
    return {target for target in found if target.is_relative_to(ROOT)}


def page_name(path: Path) -> str:
    """Return the name of the page of a file: its own, or with `.md` behind it."""
    name = str(path.relative_to(ROOT))
    return name if name.endswith(".md") else f"{name}.md"


def read(path: Path) -> str:
    """Return the Markdown of a page; of a notebook, its cells and the text that they printed."""
    if path.suffix != ".ipynb":
        return path.read_text()
    written = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        written.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            written.append(f"```text\n{''.join(text).rstrip()}\n```")
    return "\n\n".join(written) + "\n"


def show(path: Path) -> str:
    """Return a page that shows a source file, or each file of a folder."""
    written = ["---\nsearch:\n  exclude: true\n---", f"# {path.relative_to(ROOT)}"]
    sources = sorted(path.iterdir()) if path.is_dir() else [path]
    for source in filter(Path.is_file, sources):
        heading = [] if source == path else [f"## {source.name}"]
        lexer = LEXERS.get(source.suffix, "text")
        written += [*heading, f"~~~~{lexer}\n{source.read_text().rstrip()}\n~~~~"]
    return "\n\n".join(written) + "\n"
