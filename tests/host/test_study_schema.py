"""A study's file: what is refused, and in which words; what points it comes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from insitu.arch.declaration import ExponentPolicy
from insitu.arch.errors import ArchError
from insitu.arch.numbers import Rounding
from insitu.fpga.targets import TARGETS
from insitu.host.errors import StudyError
from insitu.host.study import points
from tests.host import study_toy as toy


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeds = [1, 1]", "seeds is [1, 1]: a list of different whole numbers"),
        ("seeds = []", "seeds is []"),
        ("holdout = 0.7", "holdout is 0.7: allowed are 0 to 0.5"),
        ("sneeds = [1]", "sneeds: no such key; there are name, storage, data"),
        ("[train]\nepochs = 0", "train.epochs is 0: allowed are whole numbers, 1 and above"),
        ("[train]\nepochs = true", "train.epochs is True"),
        ("[train]\nlr = -1.0", "train.lr is -1.0: allowed are numbers above 0"),
        ("[train]\nlr = nan", "train.lr is nan"),
        ('[train]\nschedule = "slow"', "train.schedule is 'slow': allowed are constant, linear, cosine, step"),
        ("train = 3", "train is 3: a table is wanted"),
        ('[format]\npreset = "nito"', "format.preset is 'nito': allowed are niti, nitro-d, wage, q2.7"),
        ('[format]\npreset = "niti"\nbits = "w8"', "format.bits: no such key"),
        ('[format.rounding]\nerror = "up"', "format.rounding.error is 'up': allowed are floor, nearest"),
        ('[search]\nmethod = "guess"', "search.method is 'guess': allowed are grid, one-at-a-time, random, optuna"),
        ('[search]\nobjectives = ["speed"]', "search.objectives is ['speed']"),
        ('[search]\nobjectives = ["lut"]', "only method 'optuna' aims at anything"),
        ('[search]\nmethod = "random"', "without a table [space]"),
        ('[search]\nmethod = "optuna"\n[space]\nweight = [2, 4]', "hold training images out"),
        (
            'holdout = 0.1\n[search]\nmethod = "optuna"\nobjectives = ["accuracy", "lut"]\n[space]\nweight = [2, 4]',
            "say where area comes from",
        ),
        ("[space]\nweights = [2]", "space.weights: nothing of that name can be varied; there are student, core"),
        ("[space]\nweight = [1, 2]", "space.weight has 1: allowed are whole numbers, 2 to 16"),
        ("[space]\nweight = 4", "space.weight is 4: a list or a range"),
        ("[space]\nweight = [4, 4]", "a list of different values"),
        ('[space]\n"weight.rounding" = ["stochastic"]', "allowed are floor, nearest"),
        ("[space]\nrounding = {low = 1, high = 2}", "space.rounding is {'low': 1, 'high': 2}: a list is wanted"),
        ("[space]\nlr = {low = 0.1, high = 1.0}", "space.lr is a range of real numbers: a grid wants a list"),
        ("[space]\nlr = {low = 0.1, high = 0.1}", "low is below high"),
        ("[space]\nweight = {low = 2, high = 8, stride = 2}", "space.weight.stride: no such key"),
        ('[area]\nsource = "guess"', "area.source is 'guess': allowed are synthesis, model, none"),
        ('[area]\ntarget = "virtex"', "area.target is 'virtex': allowed are ecp5-85k, ecp5-45k"),
        ("[area]\nsamples = 2", "area.samples is 2: allowed are whole numbers, 4 and above"),
        ("a = [", "not TOML"),
    ],
)
def test_a_wrong_file_is_refused_in_words(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(StudyError) as refused:
        toy.study(tmp_path, text)
    message = str(refused.value)
    assert words in message
    assert message.startswith(str(tmp_path / "toy.toml"))
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[space]\nweight = [4]\nmaster = [2]", "master of 2 bits under a weight of 4"),
        ('[format]\nbits = "w99"', "weight of 99 bits: allowed are 2 to 16"),
        ('[format]\npreset = "wage"\n[space]\nweight = [4]', "preset 'wage' has formats of its own, 'weight' included"),
        ('core = "huge"', "core 'huge': presets are tiny4"),
        ('[space]\n"layers.1.target" = [4]', "target cannot differ by layer"),
        ('[space]\n"master.exponents" = ["exact"]', "only activation, error, gradient have exponents that can move"),
    ],
)
def test_a_point_that_is_no_setting_is_refused_before_any_runs(tmp_path: Path, text: str, words: str) -> None:
    study = toy.study(tmp_path, text)
    with pytest.raises((StudyError, ArchError)) as refused:
        points.listed(study)
    assert words in str(refused.value)


def test_no_such_file(tmp_path: Path) -> None:
    from insitu.host.study import schema

    with pytest.raises(StudyError, match="no such file"):
        schema.load(tmp_path / "none.toml")


def test_a_grid_has_every_combination_once(tmp_path: Path) -> None:
    found = points.listed(toy.study(tmp_path, toy.GRID))
    assert [(p.values["weight"], p.values["error"]) for p in found] == [(w, e) for w in (2, 4, 6, 8) for e in (4, 8)]


def test_one_at_a_time_leaves_out_what_equals_the_base(tmp_path: Path) -> None:
    text = (
        '[format]\nbits = "w8a8e8g8m16"\n[search]\nmethod = "one-at-a-time"\n[space]\nweight = [4, 8]\nerror = [8, 6]'
    )
    found = points.listed(toy.study(tmp_path, text))
    assert [dict(p.values) for p in found] == [{}, {"weight": 4}, {"error": 6}]


def test_axes_make_the_declaration_they_name(tmp_path: Path) -> None:
    text = """
[format]
bits = "w8a8e8g8"
[space]
bits = [4]
gradient = [6]
rounding = ["floor"]
"error.rounding" = ["pseudo"]
exponents = ["static"]
"activation.exponents" = ["delayed"]
"layers.3.weight" = [3]
"layers.3.weight.rounding" = ["floor"]
"""
    study = toy.study(tmp_path, text)
    made = points.listed(study)[0].setting(study).declaration
    assert made is not None
    assert made.short == "w4a4e4g6m8c32t8"  # a master that nobody names follows the weight
    assert made.error.rounding is Rounding.PSEUDO
    assert made.gradient.rounding is Rounding.FLOOR
    assert made.error.exponent is ExponentPolicy.STATIC
    assert made.activation.exponent is ExponentPolicy.DELAYED
    assert made.at("3").weight.width == 3
    assert made.at("3").weight.rounding is Rounding.FLOOR
    assert made.at("1").weight.width == 4


def test_a_named_master_stays(tmp_path: Path) -> None:
    study = toy.study(tmp_path, '[format]\nbits = "w8m16"\n[space]\nweight = [4]')
    made = points.listed(study)[0].setting(study).declaration
    assert made is not None
    assert made.master.width == 16


def test_settings_survive_json(tmp_path: Path) -> None:
    from insitu.host.study.setting import Setting

    text = '[space]\n"layers.1.weight" = [3]\n[compare]\nformats = ["niti", "w4"]'
    study = toy.study(tmp_path, text)
    for point in [*points.listed(study), *points.compared(study)]:
        made = point.setting(study)
        assert Setting.from_json(made.to_json()) == made


def test_what_is_compared(tmp_path: Path) -> None:
    text = '[space]\nstudent = ["a", "b"]\nweight = [4, 8]\n[compare]\nformats = ["w4", "niti"]\nqpytorch = true'
    study = toy.study(tmp_path, text)
    found = points.compared(study)
    assert [(p.arm, p.values["student"]) for p in found if p.arm == "float32"] == [("float32", "a"), ("float32", "b")]
    assert [p.values["format"] for p in found if p.arm == "qpytorch"] == ["w4", "w4"]  # presets are ours alone
    q = points.Point(values={"format": "q2.7"}).setting(study)
    assert (q.batch, q.preset) == (1, "q2.7")


def test_float32_is_trained_as_a_preset_is(tmp_path: Path) -> None:
    text = '[train]\nlr = 0.5\n[compare]\nformats = ["w4", "q2.7", "nitro-d"]'
    study = toy.study(tmp_path, text)
    made = [p.setting(study) for p in points.compared(study)]
    floats = [(s.batch, s.lr, s.schedule) for s in made if s.arm == "float32"]
    assert floats == [(32, 0.5, "linear"), (1, 0.001, "constant"), (32, 0.05, "linear")]
    varied = toy.study(tmp_path, '[space]\nformat = ["w4", "w8", "q2.7"]', "varied")
    assert [s.batch for p in points.compared(varied) if (s := p.setting(varied)).arm == "float32"] == [32, 1]


def test_area_is_of_every_target_there_is(tmp_path: Path) -> None:
    for target in TARGETS:
        assert toy.study(tmp_path, f'[area]\ntarget = "{target}"').area.target == target


def test_the_page_shows_a_file_that_is_right(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/studies.md").read_text()
    shown = page.split("```toml\n")[1].split("```")[0]
    study = toy.study(tmp_path, shown)
    assert len(points.listed(study)) > 5
    assert [p.arm for p in points.compared(study)].count("float32") == 1
    assert len(points.compared(study)) == 3
