"""Results that are kept in files."""

from dataclasses import dataclass
from threading import Thread
from time import sleep

import pytest

from layerprune.runtime.atomic_files import read_checksummed
from layerprune.runtime.cache import cached, read_intact


@dataclass
class Sum:
    total: int


def read(path):
    return Sum(**read_checksummed(path))


def test_a_value_is_made_once_and_again_if_its_file_is_damaged(tmp_path):
    path, made = tmp_path / "new" / "sum.json", []

    def make():
        made.append(1)
        return Sum(7)

    assert cached(path, read, make) == cached(path, read, make) == Sum(7)
    assert len(made) == 1
    assert read_intact(path, read) == Sum(7)
    for damaged in (path.read_text().replace("7", "8"), "{", '{"other": 1}'):
        path.write_text(damaged)
        assert read_intact(path, read) is None
        assert cached(path, read, make) == Sum(7)
    assert len(made) == 4
    assert cached(path, lambda path: None, lambda: Sum(9)) == Sum(9)
    assert read(path) == Sum(9)


def test_others_wait_for_the_one_that_makes_it(tmp_path):
    path, made, values = tmp_path / "sum.json", [], []

    def make():
        made.append(1)
        sleep(0.1)
        return Sum(7)

    threads = [Thread(target=lambda: values.append(cached(path, read, make))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == [Sum(7)] * 3
    assert len(made) == 1


def test_errors_of_making_are_raised_and_nothing_is_written(tmp_path):
    def fail():
        raise ValueError("no text")

    with pytest.raises(ValueError, match="no text"):
        cached(tmp_path / "sum.json", read, fail)
    assert not (tmp_path / "sum.json").exists()


def test_a_value_may_have_a_form_of_its_own(tmp_path):
    def write(path, value):
        path.write_text(value)

    path = tmp_path / "text"
    assert cached(path, lambda path: path.read_text(), lambda: "a", write) == "a"
    assert cached(path, lambda path: path.read_text(), lambda: "b", write) == "a"
