import numpy as np
import pytest
from scipy import stats

from insitu.models import draws


def test_numbers_depend_on_their_own_key_alone():
    keys = draws.keys(3, np.arange(1000), "a")
    whole, bells = draws.uniform(keys, 3), draws.normal(keys, 5)
    for part in (slice(0, 1), slice(7, 20), slice(990, 1000)):
        assert np.array_equal(draws.uniform(draws.keys(3, np.arange(1000)[part], "a"), 3), whole[part])
        assert np.array_equal(draws.normal(keys[part], 5), bells[part])
    assert whole.dtype == bells.dtype == np.float32


def test_keys_differ_by_seed_position_and_purpose():
    keys = [draws.keys(seed, np.arange(500), purpose) for seed in (0, 1, 2**40) for purpose in ("a", "b", "1 a")]
    assert len(np.unique(keys)) == 9 * 500


@pytest.mark.parametrize(("draw", "distribution"), [(draws.uniform, "uniform"), (draws.normal, "norm")])
def test_distributions(draw, distribution):
    """Over keys and over a key's own numbers; neighbours have nothing in common."""
    numbers = draw(draws.keys(0, np.arange(500), "a"), 101)
    assert stats.kstest(numbers.ravel(), distribution).pvalue > 0.01
    correlations = np.corrcoef(numbers)[np.triu_indices(500, 1)]
    assert np.abs(correlations).max() < 0.55
    assert np.abs(np.corrcoef(numbers.T)[np.triu_indices(101, 1)]).max() < 0.25


def test_uniform_stays_below_one():
    keys = draws.keys(0, np.arange(2**18), "a")
    numbers = draws.uniform(keys, 8)
    assert numbers.min() >= 0
    assert numbers.max() < 1
