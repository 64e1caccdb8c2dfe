"""The authors' blocks, and how near a measurement comes to them."""

import numpy as np
import pytest

from layerprune.prune.reference import Agreement, agreement, reference, references

pytestmark = pytest.mark.quick


def distances(starts, num_layers):
    """Distances whose least block of n layers begins at the n-th start."""
    found = np.ones((num_layers + 1, num_layers + 1))
    for count, start in enumerate(starts, start=1):
        found[start, start + count] = 0.5
    return found


@pytest.mark.parametrize("known", references(), ids=lambda each: each.names[0])
def test_every_block_fits_into_its_model_and_leaves_the_last_layer(known):
    for count, start in enumerate(known.starts, start=1):
        assert start >= 0
        assert start + count < known.num_layers
    assert len(known.starts) in (0.75 * known.num_layers, 0.8 * known.num_layers)
    assert all(reference(name, known.num_layers) is known for name in known.names)
    assert agreement(known, distances(known.starts, known.num_layers)) == Agreement(
        known.starts, len(known.starts), len(known.starts), len(known.starts), 0
    )


def test_blocks_that_begin_elsewhere_are_counted():
    known = references()[0]
    off = list(known.starts)
    off[0] += 1
    off[1] -= 1
    off[2] -= 5
    assert agreement(known, distances(off, 32)) == Agreement(
        starts=tuple(off), exact=21, within_one=23, of=24, furthest=5
    )


def test_no_other_model_is_held_against_them():
    assert reference("llama2_7b", 40) is None
    assert reference("smollm2_135m", 30) is None
