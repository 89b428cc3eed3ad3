import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from insitu.models.errors import InvalidInputError
from insitu.models.shifts import KINDS, SEVERITIES, Shift, Step

steps = st.builds(Step, st.sampled_from(KINDS), st.integers(1, 5))


def pictures(n: int = 40, side: int = 8) -> np.ndarray:
    """A soft bar above and left of the middle, somewhere else in each image; dark at the border, as digits are."""
    rng = np.random.default_rng(1)
    row, column = np.meshgrid(*[(np.arange(side) + 0.5) / side] * 2, indexing="ij")
    up, left = rng.uniform(0.32, 0.40, (2, n, 1, 1))
    bar = np.exp(-(((row - up) / 0.16) ** 2) - ((column - left) / 0.08) ** 2)
    return np.where(bar > 0.05, bar, 0)[:, None].astype(np.float32)


@given(st.lists(steps, max_size=4))
def test_text_round_trips(chosen):
    shift = Shift(tuple(chosen))
    assert Shift.parse(str(shift)) == shift


def test_parse():
    assert Shift.parse("rotate:3 + noise:2") == Shift((Step("rotate", 3), Step("noise", 2)))
    assert str(Shift.parse("none")) == "none"
    assert str(Shift.parse("rotate:3+noise:2").at(5)) == "rotate:5+noise:5"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "''"),
        ("rotate", "'rotate' is not kind:severity"),
        ("rotate:x", "rotate:x"),
        ("rotate:-1", "rotate:-1"),
        ("rotate:0", "severity 0"),
        ("rotate:6", "severity 6"),
        ("spin:3", "'spin'; allowed are rotate"),
        ("rotate:3+", "''"),
        ("rotate:²", "rotate:²"),
    ],
)
def test_parse_refuses(text, says):
    with pytest.raises(InvalidInputError, match=says):
        Shift.parse(text)


@pytest.mark.parametrize("side", [8, 28])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_grows_with_severity(kind, side):
    x = pictures(side=side)
    kept = x.copy()
    distances = []
    for severity in SEVERITIES:
        out = Shift((Step(kind, severity),)).apply(x, 0)
        assert out.dtype == np.float32
        assert out.shape == x.shape
        assert out.min() >= 0
        assert out.max() <= 1
        distances.append(float(np.abs(out - x).mean()))
    assert np.array_equal(x, kept)
    assert distances == sorted(distances)
    assert 0 < distances[0] < 0.7 * distances[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_alone_decides(kind):
    x, shift = pictures(), Shift((Step(kind, 2),))
    torch.manual_seed(1)
    first = shift.apply(x, 5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert np.array_equal(first, shift.apply(x, 5))
    assert torch.equal(state, torch.get_rng_state())
    assert not np.array_equal(first, shift.apply(x, 6))


@pytest.mark.parametrize("kind", KINDS)
def test_large_sets_are_worked_in_parts_unseen(kind, monkeypatch):
    x, shift = pictures(), Shift((Step(kind, 3),))
    whole = shift.apply(x, 5)
    monkeypatch.setattr("insitu.models.shifts.CHUNK", 16)
    np.testing.assert_array_equal(shift.apply(x, 5), whole)


@pytest.mark.parametrize("side", [8, 28])
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_depends_on_its_own_seed_alone(kind, side):
    x, seeds = pictures(side=side), np.arange(40) * 7919
    shift = Shift((Step(kind, 3), Step("noise", 1)))
    whole = shift.apply(x, seeds)
    for part in (slice(0, 1), slice(3, 20), slice(20, 40), [9, 2, 30]):
        np.testing.assert_array_equal(shift.apply(x[part], seeds[part]), whole[part])
    again = shift.apply(np.repeat(x[:1], 2, axis=0), np.array([5, 6]))
    assert not np.array_equal(again[0], again[1])


@pytest.mark.parametrize("side", [8, 28])
def test_rotation_turns_every_image_by_the_same_angle(side):
    x = np.repeat(pictures(1, side), 200, axis=0)
    out = Shift.parse("rotate:3").apply(x, 0)
    candidates = {angle: ndimage.rotate(x[0, 0], angle, reshape=False, order=1) for angle in range(35, 56)}
    found = [min(candidates, key=lambda a: float(np.abs(candidates[a] - image[0]).sum())) for image in out]
    assert 44 <= np.mean(found) <= 46
    assert min(found) >= 41
    assert max(found) <= 49
    assert len(set(found)) > 3


@pytest.mark.parametrize("side", [8, 28, 40])
def test_translation_moves_the_centre_by_a_share_of_the_side(side):
    x = np.zeros((300, 1, side, side), np.float32)
    x[:, :, side // 2 - 2 : side // 2, side // 2 - 2 : side // 2] = 1
    out = Shift.parse("translate:4").apply(x, 0)
    before = np.array(ndimage.center_of_mass(x[0, 0]))
    moved = np.array([ndimage.center_of_mass(image[0]) for image in out]) - before
    np.testing.assert_allclose(moved.mean(0) / side, 0.12, atol=0.005)
    assert np.abs(moved / side - 0.12).max() < 0.025


def test_noise_is_new_in_every_pixel_and_of_the_stated_strength():
    x = np.full((200, 1, 8, 8), 0.5, np.float32)
    added = Shift.parse("noise:1").apply(x, 0) - x
    assert added.std() == pytest.approx(0.1, rel=0.03)
    assert abs(np.corrcoef(added[0].ravel(), added[1].ravel())[0, 1]) < 0.5
    two = Shift.parse("noise:1+noise:1").apply(x, 0) - x
    assert two.std() == pytest.approx(0.1 * 2**0.5, rel=0.03)


def test_contrast_keeps_the_mean():
    x = pictures()
    out = Shift.parse("contrast:3").apply(x, 0)
    np.testing.assert_allclose(out.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=1e-5)
    ratio = out.std((1, 2, 3)) / x.std((1, 2, 3))
    np.testing.assert_allclose(ratio, 0.46, atol=0.021)


@pytest.mark.parametrize("side", [8, 28])
def test_occlusion_covers_the_stated_area(side):
    x = np.zeros((50, 1, side, side), np.float32)
    for severity in SEVERITIES:
        out = Shift((Step("occlude", severity),)).apply(x, 0)
        np.testing.assert_allclose(out.sum((1, 2, 3)), 0.5 * (0.12 * severity * side) ** 2, rtol=1e-4)


def test_blur_keeps_the_light():
    x = np.zeros((5, 1, 28, 28), np.float32)
    x[:, :, 14, 14] = 1
    out = Shift.parse("blur:2").apply(x, 0)
    np.testing.assert_allclose(out.sum((1, 2, 3)), 1, rtol=1e-4)
    rows = np.arange(28) - 14
    variance = (out[:, 0].sum(2) * rows**2).sum(1)
    np.testing.assert_allclose(variance**0.5, 0.06 * 28, rtol=0.12)


def test_steps_act_in_their_order():
    x = pictures()
    assert not np.array_equal(
        Shift.parse("translate:3+rotate:3").apply(x, 0), Shift.parse("rotate:3+translate:3").apply(x, 0)
    )


def test_none_is_a_copy():
    x = pictures()
    out = Shift().apply(x, 0)
    assert np.array_equal(out, x)
    assert not np.shares_memory(out, x)
    assert Shift.parse("rotate:1").apply(x[:0], 0).shape == (0, 1, 8, 8)


@pytest.mark.parametrize(
    ("x", "seed", "says"),
    [
        (np.zeros((2, 1, 8, 8)), 0, "float64"),
        (np.zeros((2, 8, 8), np.float32), 0, r"\[2, 8, 8\]"),
        (np.zeros((2, 3, 8, 8), np.float32), 0, r"\[2, 3, 8, 8\]"),
        (np.full((2, 1, 8, 8), 255, np.float32), 0, "255"),
        (np.full((2, 1, 8, 8), np.nan, np.float32), 0, "nan"),
        (np.zeros((2, 1, 8, 8), np.float32), -1, "seed -1"),
        (np.zeros((2, 1, 8, 8), np.float32), np.array([0, -3]), "seed -3"),
        (np.zeros((2, 1, 8, 8), np.float32), np.array([0, 1, 2]), r"\[3\]; allowed are an integer or integers \[2\]"),
        (np.zeros((2, 1, 8, 8), np.float32), np.array([0.5, 1]), "float64"),
    ],
)
def test_apply_refuses(x, seed, says):
    with pytest.raises(InvalidInputError, match=says):
        Shift.parse("rotate:1").apply(x, seed)
