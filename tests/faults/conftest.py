"""What the tests of faults share: places to run in, and the table of what was seen."""

import pytest
from faults.running import Place
from faults.table import Seen


@pytest.fixture(scope="session")
def model(tmp_path_factory, tiny_folder):
    return tiny_folder


@pytest.fixture
def place(tmp_path, tiny_folder, tiny_tasks):
    """Where the run that is disturbed takes place."""
    return Place(tmp_path / "place", tiny_folder, tiny_tasks)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, tiny_folder, tiny_tasks):
    """What runs come to that nothing disturbs, by their overrides; each is run once."""
    known = {}

    def results(*overrides):
        if overrides not in known:
            folder = tmp_path_factory.mktemp("undisturbed")
            place = Place(folder, tiny_folder, tiny_tasks)
            done = place.run(*overrides)
            assert done.status == 0, done.said
            known[overrides] = place.results()
            assert len(known[overrides]) >= 2
        return known[overrides]

    return results


@pytest.fixture
def seen(request, record_property, tmp_path):
    """Takes down what was seen of a fault, for the table."""
    return Seen(record_property, tmp_path)


def pytest_addoption(parser):
    parser.addoption("--write-faults", action="store_true", help="write docs/faults.md")


def pytest_configure(config):
    from faults.table import Table

    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table(config), "faults-table")
