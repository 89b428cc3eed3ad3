import sys

import numpy as np
import pytest
import torch
from torch import nn

from insitu.models.errors import StudentError
from insitu.models.students import build, mlp

FIT = {"in_shape": (1, 8, 8), "classes": 10, "seed": 0}

FILE = """
from torch import nn
from {sibling} import WIDTH

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))

def sized(*, in_shape, classes, hidden=5):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_shape[1] * in_shape[2], hidden), nn.Linear(hidden, classes))

def half(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

def anything(**options):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, options["classes"]))

def raises():
    raise RuntimeError("no\\nluck")

def leaves():
    raise SystemExit(3)

def needs(depth):
    return nn.Linear(depth, 1)

def number():
    return 3

def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9))

def wrong_input():
    return nn.Sequential(nn.Flatten(), nn.Linear(63, 10))

CONSTANT = 3
"""


@pytest.fixture
def user_file(tmp_path):
    (tmp_path / f"sibling_{tmp_path.name.replace('-', '_')}.py").write_text("WIDTH = 7\n")
    path = tmp_path / "mine.py"
    path.write_text(FILE.format(sibling=f"sibling_{tmp_path.name.replace('-', '_')}"))
    return path


def test_mlp_layers():
    model = mlp([64, 20, 10], seed=1)
    assert [type(layer) for layer in model] == [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]
    assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_seed_alone_decides_and_global_state_stays():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = mlp([4, 3, 2], seed=1)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(6)
    assert torch.equal(first[1].weight, mlp([4, 3, 2], seed=1)[1].weight)
    assert not torch.equal(first[1].weight, mlp([4, 3, 2], seed=2)[1].weight)


def test_build_mlp():
    assert [m.out_features for m in build("mlp:64-30-20-10", **FIT) if isinstance(m, nn.Linear)] == [30, 20, 10]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("mlp:784-10", "takes 784 inputs; images of 1 x 8 x 8 have 64"),
        ("mlp:64-11", "11 outputs; the data has 10 classes"),
        ("mlp:64", "joined by '-'"),
        ("mlp:64--10", "joined by '-'"),
        ("mlp:64-x-10", "joined by '-'"),
        ("mlp:64-0-10", "each at least 1"),
        ("mlp:", "joined by '-'"),
        ("resnet", "write mlp:"),
        ("lenet", "12 x 12 or more; not 1 x 8 x 8"),
        ("cnn:3", "option .3.; write name=number"),
        ("", "write mlp:"),
        ("mine.py", "write mlp:"),
        ("mine.txt:f", "write mlp:"),
        ("mine.py:a b", "write mlp:"),
        ("nowhere/mine.py:plain", "no file nowhere/mine.py"),
    ],
)
def test_build_refuses(spec, says):
    with pytest.raises(StudentError, match=says) as caught:
        build(spec, **FIT)
    assert repr(spec) in str(caught.value) or "each at least 1" in says


@pytest.mark.parametrize(("factory", "hidden"), [("plain", 7), ("sized", 5), ("half", 10), ("anything", 10)])
def test_build_from_file(user_file, factory, hidden):
    model = build(f"{user_file}:{factory}", **FIT)
    assert model[1].out_features == hidden
    assert model.training
    again = build(f"{user_file}:{factory}", **FIT)
    assert torch.equal(model[1].weight, again[1].weight)
    assert not torch.equal(model[1].weight, build(f"{user_file}:{factory}", **{**FIT, "seed": 1})[1].weight)
    assert str(user_file.parent) not in sys.path


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("missing", "no function 'missing' .* plain, sized"),
        ("CONSTANT", "no function 'CONSTANT'"),
        ("raises", "the factory raised RuntimeError: no luck"),
        ("leaves", "the factory raised SystemExit: 3"),
        ("needs", "the factory raised TypeError: .*depth"),
        ("number", "returned int; expected a torch.nn.Module"),
        ("narrow", r"gives \[2, 9\]; expected \[2, 10\]"),
        ("wrong_input", "forward of .* raised RuntimeError"),
    ],
)
def test_build_from_file_refuses_in_one_line(user_file, factory, says):
    with pytest.raises(StudentError, match=says) as caught:
        build(f"{user_file}:{factory}", **FIT)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_imported(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("import nothing_of_that_name\n")
    with pytest.raises(StudentError, match="importing .*broken.py raised ModuleNotFoundError"):
        build(f"{path}:f", **FIT)


def test_an_edited_file_is_read_again(tmp_path):
    path = tmp_path / "edited.py"
    text = (
        "from torch import nn\ndef f():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, {}), nn.Linear({}, 10))\n"
    )
    widths = []
    for width in (3, 123):
        path.write_text(text.format(width, width))
        widths.append(build(f"{path}:f", **FIT)[1].out_features)
    assert widths == [3, 123]
    assert np.all(np.diff(widths) > 0)
