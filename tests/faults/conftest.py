"""What the tests of faults share: places to run in, and the table of what was seen."""

from functools import cache, partial

import pytest
from faults.disturb import write_down
from faults.running import Place
from faults.table import Seen


@pytest.fixture
def place(tmp_path, tiny_folder, tiny_tasks):
    """Where the run that is disturbed takes place."""
    return Place(tmp_path / "place", tiny_folder, tiny_tasks)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_folder, tiny_tasks):
    """Where runs that nothing disturbs took place, by their overrides; each is run once."""

    @cache
    def place_of(*overrides):
        place = Place(tmp_path_factory.mktemp("undisturbed"), tiny_folder, tiny_tasks)
        log = partial(write_down, place.outputs, place.folder / "changes")
        done = place.run(*overrides, disturb=log)
        assert done.status == 0, done.said
        assert len(place.results()) >= 2
        return place

    return place_of


@pytest.fixture(scope="session")
def undisturbed(finished):
    """What runs come to that nothing disturbs."""
    return lambda *overrides: finished(*overrides).results()


@pytest.fixture(scope="session")
def changed(finished):
    """The changes of files that such a run makes, in their order."""
    return lambda *overrides: (finished(*overrides).folder / "changes").read_text().splitlines()


@pytest.fixture
def seen(record_property, tmp_path):
    """Takes down what was seen of a fault, for the table."""
    return Seen(record_property, tmp_path)


def pytest_addoption(parser):
    parser.addoption("--write-faults", action="store_true", help="write docs/faults.md")


def pytest_configure(config):
    from faults.table import Table

    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table(config), "faults-table")
