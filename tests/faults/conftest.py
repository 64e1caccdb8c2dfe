"""Fixtures of the fault tests: places to run in, and the table of results."""

from functools import cache, partial

import pytest
from faults.disturb import write_down
from faults.running import Place
from faults.table import Seen


@pytest.fixture
def place(tmp_path, tiny_folder, tiny_tasks):
    """Return a place for the disturbed run."""
    return Place(tmp_path / "place", tiny_folder, tiny_tasks)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_folder, tiny_tasks):
    """Return the place of an undisturbed run by its overrides; each runs once."""

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
    """Return the results of an undisturbed run."""
    return lambda *overrides: finished(*overrides).results()


@pytest.fixture(scope="session")
def changed(finished):
    """Return the file changes of an undisturbed run, in their order."""
    return lambda *overrides: (finished(*overrides).folder / "changes").read_text().splitlines()


@pytest.fixture
def seen(record_property, tmp_path):
    """Record a row of the table."""
    return Seen(record_property, tmp_path)


def pytest_addoption(parser):
    parser.addoption("--write-faults", action="store_true", help="write docs/faults.md")


def pytest_configure(config):
    from faults.table import Table

    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table(config), "faults-table")
