"""Wheel and sdist hold what the repository holds, and what they install runs from any folder."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def run(*command, cwd=None):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def pip(*arguments):
    run(sys.executable, "-m", "pip", *arguments)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (file,) = folder.glob("*.tar.gz")
    return file


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def installed(request, tmp_path_factory):
    """An environment with nothing but this package, which borrows its dependencies from ours."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    (site,) = folder.glob("lib/python*/site-packages")
    # Our packages follow its own on the path; our editable installation does not come with them.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    file = request.getfixturevalue(request.param)
    pip("--python", folder / "bin" / "python", "install", "--quiet", "--no-deps", "--no-index",
        "--no-build-isolation", "--ignore-installed", file)  # fmt: skip
    return folder


def files(*folders):
    """Each file of the folders as (path in the repository, path in the wheel)."""
    for folder, place in folders:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                name = path.relative_to(ROOT / folder)
                yield f"{folder}/{name}", f"{place}/{name}"


PACKED = sorted(files(("layerprune", "layerprune"), ("conf", "layerprune/conf")))


def test_conf_and_questions_are_packed():
    names = dict(PACKED)
    assert names["conf/config.yaml"] == "layerprune/conf/config.yaml"
    assert any(name.endswith("/facts/data/test/currencies.jsonl") for name in names)


def test_the_wheel_has_every_file_of_the_package_and_of_conf(wheel):
    assert wheel.name.startswith(f"layerprune-{VERSION}-")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (script,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
        assert b"layerprune = layerprune.cli:main" in archive.read(script)
    assert not {place for _, place in PACKED} - set(names)


@pytest.mark.slow
def test_the_sdist_has_every_file_of_the_package_and_of_conf(sdist):
    top = f"layerprune-{VERSION}"
    with tarfile.open(sdist) as archive:
        names = set(archive.getnames())
    assert not {f"{top}/{name}" for name, _ in PACKED} - names
    for name in ("README.md", "CHANGELOG.md", "LICENSE", "main.py", "docs/curves.md"):
        assert f"{top}/{name}" in names
    assert not [name for name in names if "/outputs/" in name or name.endswith((".gz", ".gguf"))]


@pytest.mark.slow
def test_it_runs_where_it_is_installed(installed, tmp_path):
    program = installed / "bin" / "layerprune"
    assert run(program, "--version", cwd=tmp_path) == f"layerprune {VERSION}\n"
    job = run(program, "experiment=demo", "--cfg", "job", "--resolve", cwd=tmp_path)
    assert "study: demo" in job
    python = "import layerprune.config.compose as c; print(c.__file__, c.conf_dir(), sep='\\n')"
    for path in run(installed / "bin" / "python", "-c", python, cwd=tmp_path).splitlines():
        assert Path(path).is_relative_to(installed.resolve())


@pytest.mark.slow
def test_questions_are_found_where_it_is_installed(installed, tmp_path):
    python = (
        "from layerprune.evaluate.eval_tasks import EvalTasks\n"
        "from layerprune.config.schema import EvalConfig\n"
        "tasks = EvalTasks(EvalConfig(tasks=['facts'], limit=2)); tasks.load()\n"
        "import layerprune; print(layerprune.__file__)\n"
    )
    (file,) = run(installed / "bin" / "python", "-c", python, cwd=tmp_path).splitlines()[-1:]
    assert Path(file).is_relative_to(installed.resolve())
