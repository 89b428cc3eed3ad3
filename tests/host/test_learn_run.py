"""A curriculum's file, from what it says to what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from insitu.arch.errors import ArchError
from insitu.host.errors import StudyError
from insitu.host.learn import drawing, experiment, results, schema
from insitu.host.learn.prepare import PoolSpec, Preparing, TeacherSpec, draw
from insitu.models.curricula.noise import Noise
from insitu.models.curricula.pool import UNKNOWN
from insitu.models.datasets import Dataset, load
from insitu.models.errors import InvalidInputError
from insitu.models.shifts import Shift

STAGE = {"pool": "some", "epochs": 3, "lr": 0.3}
FILE: dict[str, Any] = {
    "data": "digits",
    "student": "mlp:64-10",
    "core": "tiny4,act_depth=2048",
    "batch": 16,
    "seeds": [0, 1],
    "pools": {"some": {"count": 64, "even": True}, "blind": {"count": 48, "labels": False}},
    "teacher": {"pool": "some", "model": "mlp:64-16-10", "epochs": 80},
    "arms": {
        "plain": {"stages": [STAGE]},
        "again": {"stages": [STAGE]},
        "longer": {"stages": [STAGE, {"pool": "blind", "labels": "soft", "lr": 0.1, "name": "taught"}]},
    },
}


def changed(key: str, value: Any) -> dict[str, Any]:
    """The file with a value at a dotted key, new or not."""
    found = schema._with(FILE, ["data"], "digits")
    at: Any = found
    *above, last = key.split(".")
    for name in above:
        at = at[int(name)] if isinstance(at, list) else at[name]
    at[last] = value
    return found


def plan(data: dict[str, Any]) -> schema.Plan:
    return schema.parse(data, Path("tiny.toml"))


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return experiment.run(plan(FILE))


def test_every_arm_on_device_and_in_float_after_each_stage(result: dict[str, Any]) -> None:
    (point,) = result["points"]
    assert list(point["arms"]) == ["plain", "again", "longer"]
    for name, stages in (("plain", 1), ("longer", 2)):
        for arithmetic in ("device", "float"):
            runs = point["arms"][name][arithmetic]
            assert len(runs) == 2
            for run in runs:
                assert len(run) == stages
                assert run[0]["steps"] == 12
                assert all(stage["accuracy"] > 0.3 for stage in run)
                assert (run[0]["cycles"] > 0) is (arithmetic == "device")
    assert point["arms"]["longer"]["device"][0][1]["stage"] == "taught"
    for taught in point["teacher"]:
        assert 0.3 < taught["accuracy"] < 1
        assert 0.1 < taught["confidence"] < 1  # of ten classes
    assert 0.3 < point["arms"]["longer"]["device"][0][1]["with_teacher"] < 1


def test_seeds_are_paired(result: dict[str, Any]) -> None:
    """Two arms of the same stages are the same; a longer one is as they are as far as they go."""
    arms = result["points"][0]["arms"]
    assert arms["plain"] == arms["again"]
    for arithmetic in ("device", "float"):
        assert [run[0] for run in arms["longer"][arithmetic]] == [run[0] for run in arms["plain"][arithmetic]]
        assert arms["plain"][arithmetic][0] != arms["plain"][arithmetic][1]


def test_device_and_twin_take_the_same_steps(result: dict[str, Any]) -> None:
    """Eight bits end near float32, which another order or other batches would not."""
    arms = result["points"][0]["arms"]["longer"]
    for ours, theirs in zip(arms["device"], arms["float"], strict=True):
        assert [s["samples"] for s in ours] == [s["samples"] for s in theirs]
        assert ours[-1]["accuracy"] == pytest.approx(theirs[-1]["accuracy"], abs=0.06)


def test_scores_are_gains_over_the_baseline(result: dict[str, Any]) -> None:
    found = {(s.arm, s.arithmetic): s for s in results.scores(result)}
    assert found["plain", "device"].gain == (0, 0)
    assert found["again", "float"].gains == (0, 0)
    longer, runs = found["longer", "device"], result["points"][0]["arms"]
    wanted = [
        100 * (a[-1]["accuracy"] - b[-1]["accuracy"])
        for a, b in zip(runs["longer"]["device"], runs["plain"]["device"], strict=True)
    ]
    np.testing.assert_allclose(longer.gains, wanted)
    assert longer.gain == (pytest.approx(np.mean(wanted)), pytest.approx(abs(wanted[0] - wanted[1]) / np.sqrt(2)))
    assert [len(line.split("|")) for line in results.table([result])] == [10] * 4
    assert drawing.to_svg(result) == drawing.to_svg(result)
    assert b"longer" in drawing.to_svg(result)


def test_varied_values_are_points() -> None:
    found = plan({**FILE, "seeds": [0], "vary": {"keys": ["pools.some.count"], "values": [20, 64]}})
    assert [point.pools["some"].count for point in found.points] == [20, 64]
    ran = experiment.run(found, arithmetics=("device",))
    assert [point["value"] for point in ran["points"]] == [20, 64]
    assert [point["arms"]["plain"]["device"][0][0]["steps"] for point in ran["points"]] == [6, 12]
    assert b"pools.some.count" in drawing.to_svg(ran)


def test_students_that_hear_each_other_are_several() -> None:
    arms = {
        "alone": {"stages": [STAGE]},
        "mutual": {"students": 3, "stages": [{**STAGE, "labels": "peers"}]},
    }
    ran = experiment.run(plan({**FILE, "seeds": [0], "arms": arms}), arithmetics=("device",))["points"][0]["arms"]
    mutual = ran["mutual"]["device"][0][0]
    assert len(set(mutual["each"])) > 1
    assert mutual["accuracy"] == pytest.approx(np.mean(mutual["each"]))
    assert 0 < mutual["agreement"] < 1
    assert mutual["cycles"] > 3 * ran["alone"]["device"][0][0]["cycles"]


def test_a_pretext_is_tested_by_its_own_task() -> None:
    stages = [{"pool": "blind", "samples": "rotations", "epochs": 2}, {**STAGE, "trainable": "head"}]
    ran = experiment.run(plan({**FILE, "seeds": [0], "arms": {"turned": {"stages": stages}}}))["points"][0]["arms"]
    for arithmetic in ("device", "float"):
        first, second = ran["turned"][arithmetic][0]
        assert len(first["by_class"]) == 4
        assert len(second["by_class"]) == 10


def test_a_class_unseen_before_has_the_head_grow() -> None:
    pools = {"eight": {"count": 64, "classes": list(range(8))}, "all": {"count": 64, "even": True}}
    known = {"pool": "eight", "epochs": 6, "lr": 0.3}
    arms = {
        "grows": {"stages": [{**known, "classes": 8}, {"pool": "all", "epochs": 6, "lr": 0.3}]},
        "turned between": {
            "stages": [
                {**known, "classes": 8},
                {"pool": "all", "samples": "rotations"},
                {"pool": "all", "trainable": "head", "lr": 1e-4},
            ]
        },
    }
    found = plan({**FILE, "seeds": [0], "pools": pools, "teacher": {**FILE["teacher"], "pool": "all"}, "arms": arms})
    ran = experiment.run(found)["points"][0]["arms"]
    for arithmetic in ("device", "float"):
        first, second = ran["grows"][arithmetic][0]
        assert first["by_class"][8:] == [0, 0]
        assert min(first["by_class"][:8]) > 0.1
        assert min(second["by_class"][8:]) > 0.15
        # A pretext's head is another one: of what was known before it nothing is left.
        assert ran["turned between"][arithmetic][0][-1]["accuracy"] < first["accuracy"] - 0.2


def test_a_pretext_has_a_head_of_its_own_where_there_are_as_many_classes() -> None:
    """Four turns, four classes."""
    known = {"pool": "four", "classes": 4}
    turned = {"pool": "four", "samples": "rotations", "epochs": 3, "lr": 0.3}
    stages = [{**known, "epochs": 6, "lr": 0.3}, turned, {**known, "lr": 1e-4}]
    pools = {"four": {"count": 64, "classes": [0, 1, 2, 3]}}
    teacher = {**FILE["teacher"], "pool": "four"}
    found = plan({**FILE, "seeds": [0], "pools": pools, "teacher": teacher, "arms": {"turned": {"stages": stages}}})
    for arithmetic, (run,) in experiment.run(found)["points"][0]["arms"]["turned"].items():
        assert run[0]["accuracy"] > 0.3, arithmetic  # four of the test set's ten classes
        assert run[1]["accuracy"] > 0.4
        assert len(run[1]["by_class"]) == 4
        assert run[2]["accuracy"] < run[0]["accuracy"] - 0.1


@pytest.mark.parametrize(
    ("stage", "quoted"),
    [
        ({"classes": 8}, "arms.plain.stages.0.classes is 8 and pool 'some' has others"),
        ({"classes": 1}, "arms.plain.stages.0.classes is 1: allowed are whole numbers, 2 and above"),
        ({"classes": 8, "pool": "eight", "labels": "soft"}, "classes is 8 and the teacher tells all classes apart"),
        ({"classes": 8, "pool": "eight", "samples": "rotations"}, "classes is 8 and rotations have classes of their"),
    ],
)
def test_heads_that_cannot_be(stage: dict[str, Any], quoted: str) -> None:
    pools = {**FILE["pools"], "eight": {"count": 48, "classes": list(range(8))}}
    with pytest.raises(StudyError, match=quoted):
        plan({**FILE, "pools": pools, "arms": {"plain": {"stages": [{**STAGE, **stage}]}}})


def test_a_head_of_more_classes_than_there_are() -> None:
    pools = {**FILE["pools"], "eight": {"count": 48, "classes": list(range(8))}}
    arms = {"plain": {"stages": [{**STAGE, "pool": "eight", "classes": 12}]}}
    with pytest.raises(StudyError, match="a stage of 12 classes; digits has 10"):
        experiment.check(plan({**FILE, "pools": pools, "arms": arms}), None)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load("digits")


def test_pools_have_no_sample_in_common(dataset: Dataset) -> None:
    specs = {
        "even": PoolSpec(count=60, even=True),
        "few": PoolSpec(count=50, classes=(3, 5)),
        "tail": PoolSpec(count=900, skew=10.0),
    }
    rows = draw(dataset, specs, seed=0)
    everything = np.concatenate(list(rows.values()))
    assert len(np.unique(everything)) == len(everything)
    assert np.bincount(dataset.y_train[rows["even"]]).tolist() == [6] * 10
    assert set(dataset.y_train[rows["few"]].tolist()) == {3, 5}
    tail = np.bincount(dataset.y_train[rows["tail"]])
    assert tail[0] == pytest.approx(10 * tail[9], rel=0.1)
    assert (draw(dataset, specs, seed=1)["even"] != rows["even"]).any()
    with pytest.raises(InvalidInputError, match=r"pools.many.count is 9999; digits has 1437"):
        draw(dataset, {"many": PoolSpec(count=9999)}, seed=0)


def test_pools_are_seen_in_their_scene_with_their_labels(dataset: Dataset) -> None:
    preparing, scene = Preparing(dataset), Shift.parse("rotate:3")
    specs = {
        "clean": PoolSpec(count=200),
        "noisy": PoolSpec(count=200, noise=Noise("symmetric", 0.5), scene=scene),
        "blind": PoolSpec(count=50, labels=False),
    }
    found = preparing.prepare(specs, TeacherSpec(pool="clean", model="mlp:64-32-10", epochs=30), scene, seed=0)
    rows = draw(dataset, specs, seed=0)
    np.testing.assert_array_equal(found.pools["clean"].x, dataset.x_train[rows["clean"]])
    assert (found.pools["noisy"].x != dataset.x_train[rows["noisy"]]).any()
    assert (found.pools["noisy"].y != dataset.y_train[rows["noisy"]]).mean() == pytest.approx(0.5, abs=0.1)
    assert (found.pools["blind"].y == UNKNOWN).all()
    assert (found.test.x != dataset.x_test).any()
    # A teacher of upright digits: good where it was trained, lost in the scene.
    answers = found.teacher(dataset.x_test).argmax(axis=1)
    told = found.teacher_to_json()
    assert told is not None
    assert (answers == dataset.y_test).mean() > told["accuracy"] + 0.2


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("batch", 0, "batch is 0: allowed are whole numbers"),
        ("studnet", "mlp", "studnet: no such key; there are"),
        ("seeds", [], "seeds is []"),
        ("baseline", "best", "baseline is 'best': allowed are plain, again, longer"),
        ("pools", {}, "no pools"),
        ("pools.some.cuont", 3, "pools.some.cuont: no such key"),
        ("pools.some.noise", "loud:1", "write none, symmetric:SHARE"),
        ("teacher.pool", "blind", "teacher.pool is 'blind': allowed are some"),
        ("arms", {}, "no arms"),
        ("arms.plain.stages", [], "arms.plain.stages is []"),
        ("arms.plain.stages.0.pool", "some+none", "has 'none': allowed are some, blind"),
        ("arms.plain.stages.0.samples", "best", "arms.plain.stages.0.samples.policy is 'best': allowed are uniform"),
        ("arms.plain.stages.0.samples", {"policy": "top-k", "k": 0}, "top-k of k=0"),
        ("arms.plain.stages.0.samples", {"policy": "top-k", "K": 5}, "samples.K: no such key"),
        ("arms.plain.stages.0.samples", {"policy": "stream", "eviction": "x"}, "eviction is 'x'"),
        ("arms.plain.stages.0.labels", {"policy": "gce", "q": "much"}, "labels.q is 'much'"),
        ("arms.plain.stages.0.labels", "peers", "students is 1: labels of peers need 2"),
        ("arms.plain.stages.0.pool", "blind", "labels is 'given' and pool 'blind' has no labels"),
        ("arms.plain.stages.0.trainable", "most", "trainable: trainable 'most'; allowed are all, head"),
        ("arms.plain.stages.0.schedule", "slow", "schedule is 'slow': allowed are constant"),
        ("arms.plain.stages.0.lr", -1, "lr is -1: allowed are numbers above 0"),
        ("vary", {"keys": ["pools.none.count"], "values": [1]}, "the file has no such value"),
        ("vary", {"values": [1]}, "allowed is a list of values, beside the keys"),
    ],
)
def test_files_that_say_what_cannot_be(key: str, value: Any, says: str) -> None:
    with pytest.raises((StudyError, ArchError, InvalidInputError)) as error:
        plan(changed(key, value))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_teacher_that_is_asked_and_missing() -> None:
    without = {k: v for k, v in FILE.items() if k != "teacher"}
    with pytest.raises(StudyError, match="longer.stages.1.labels asks a teacher"):
        plan(without)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("student", "mlp:99-10", "takes 99 inputs"),
        ("pools.some.count", 4000, "pools.some.count is 4000"),
        ("core", "tiny4,act_depth=16", "ACT holds 16 words"),
        ("arms.plain.stages.0.trainable", "last:3", "last 3 layers of a student that has 1"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_is_trained(key: str, value: Any, says: str) -> None:
    with pytest.raises(StudyError, match=says):
        experiment.check(plan(changed(key, value)), None)
