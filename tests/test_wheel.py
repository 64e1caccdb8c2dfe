"""The wheel holds what the repository holds, and runs from any folder."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", str(folder), str(ROOT)],
        check=True,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder / "site")
    return folder / "site"


def test_every_file_of_the_package_and_of_conf_is_there(unpacked):
    there = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*")}
    for folder, place in ((ROOT / "conf", "layerprune/conf"), (ROOT / "layerprune", "layerprune")):
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"{place}/{path.relative_to(folder)}" in there


def test_runs_from_another_folder(unpacked, tmp_path):
    program = (
        f"import sys; sys.path.insert(0, {str(unpacked)!r}); sys.argv[0] = 'layerprune'\n"
        "import layerprune.app\n"
        f"assert layerprune.app.__file__.startswith({str(unpacked)!r})\n"
        "layerprune.app.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "experiment=demo", "--cfg", "job", "--resolve"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "study: demo" in done.stdout
    (script,) = unpacked.glob("*.dist-info/entry_points.txt")
    assert "layerprune = layerprune.app:main" in script.read_text()
