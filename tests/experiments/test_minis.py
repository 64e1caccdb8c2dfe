"""All presets of the bundled model, two at a time."""

import json
import time

import pytest
from scripts import script

from layerprune.config.compose import conf_dir


@pytest.fixture(scope="module")
def minis():
    """The script that runs them; experiments are no package."""
    return script("minis")


@pytest.fixture
def python(minis, tmp_path):
    """Makes a task that notes when it began and ended, in nanoseconds, and ends with a status."""

    def task(name, status=0):
        code = (
            "import sys, time\nbegan = time.monotonic_ns()\n"
            f"open({str(tmp_path / name)!r}, 'w').write(f'{{began}} {{time.monotonic_ns()}}')\n"
            f"print('said'); sys.exit({status})"
        )
        return minis.Task(name, ("-c", code))

    return task


def test_every_preset_comes_once_and_after_what_it_needs(minis, tmp_path):
    names = [task.name for task in minis.presets(tmp_path)]
    files = {path.stem for path in conf_dir().glob("experiment/*.yaml")}
    assert sorted(names) == sorted(name for name in files if not name.endswith("_paper"))
    assert set(minis.ALONE) | set(minis.LONGEST) <= set(names)
    for name, needed in minis.NEEDS.items():
        assert max(map(names.index, needed)) < names.index(name)


def test_what_one_needs_has_ended(minis, python, tmp_path):
    names = ("demo", "fig1", "demo_healed", "fig3")
    found = list(minis.run([python(name) for name in names], 4, tmp_path))
    assert sorted(name for name, *_ in found) == sorted(names)
    assert all(seconds > 0 and status == 0 for _, seconds, status in found)
    when = {name: tuple(map(int, (tmp_path / name).read_text().split())) for name in names}
    assert when["demo"][1] < when["demo_healed"][0]
    assert when["fig1"][1] < when["fig3"][0]
    assert (tmp_path / "minis" / "fig3.log").read_text() == "said\n"


def test_one_that_fails_is_named_and_seconds_add_up(minis, python, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        minis, "presets", lambda _: [python("fig2", 3), python("speed"), python("fig4")]
    )
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(SystemExit, match=r"^fig2: not done"):
            minis.main(["--outputs", str(tmp_path)])
    taken = time.monotonic() - started
    assert "fig2: exit status 3 in" in capsys.readouterr().out
    seconds = json.loads((tmp_path / "minis.json").read_text())
    assert set(seconds) == {"fig2", "speed", "fig4"}
    assert 0 < seconds["speed"] < taken
    ended = [int((tmp_path / name).read_text().split()[1]) for name in ("fig2", "fig4")]
    assert int((tmp_path / "speed").read_text().split()[0]) > max(ended)
