"""Injected collapses: noticed, and the served student never below what was shipped."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.arch.declaration import Declaration, Role
from insitu.arch.layout import Memory
from insitu.host.collapse.faults import Bits, Fault, FaultyDevice, LearningRate, Liar
from insitu.host.collapse.injections import EARLY, LATE, TWENTY
from insitu.host.collapse.trial import Course, Setup, alarms, floor, run, study
from insitu.host.compiler.compile import Compiled
from insitu.host.device import Driver, open_device
from insitu.host.errors import HostError, MemoryFault
from insitu.host.online.guard import Guard
from insitu.host.online.scene import Scene
from insitu.models import teachers
from insitu.models.shifts import Shift
from tests.host import digits

WIDTH = digits.CORE.width(Role.MASTER)


@cache
def setup() -> Setup:
    scene: Scene = digits.scene()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teachers, "IMAGES_SEEN", 60_000)
        teacher = teachers.train_teacher(scene.dataset, Shift.parse("rotate:3"), seed=0)
    return Setup(
        scene=replace(scene, teacher=teacher), core=digits.CORE, declaration=Declaration.parse("w8a8e8g8"), at=LATE
    )


@cache
def compiled() -> Compiled:
    return setup().compiled()


@cache
def shipped() -> float:
    return floor(setup(), compiled())


def course(fault: Fault, at: int = LATE, *, guarded: bool = True, gold: int = 8) -> Course:
    return run(replace(setup(), at=at, gold=gold), fault, compiled(), guarded=guarded)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (LearningRate(rate=8), "rolled back"),
        (Liar(turn=5), "teacher refused"),
        (Bits(bank=0, bit=WIDTH - 1), "memory fault"),
        (Bits(bank=1, bit=WIDTH - 1, stuck=False), "rolled back"),
    ],
)
def test_a_collapse_is_noticed_and_does_not_reach_what_is_served(fault: Fault, said: str) -> None:
    guarded, bare = course(fault), course(fault, guarded=False)
    assert guarded.said == said
    assert guarded.delay is not None
    assert 0 < guarded.delay <= 256
    assert guarded.served >= guarded.at_fault - 0.03 > shipped()
    assert guarded.stopped == (said == "memory fault") == (guarded.in_place < guarded.served)
    assert bare.lowest < guarded.at_fault - 0.1
    assert bare.served < guarded.served


def test_where_nothing_is_wrong_nothing_is_said() -> None:
    found = run(setup(), None, compiled(), guarded=True)
    assert (found.said, found.delay) == ("", None)
    assert found.served > shipped() + 0.2
    assert found.questions == 8 * setup().policy.samples // setup().policy.chunk < found.bought
    short = replace(setup(), at=EARLY, policy=replace(setup().policy, samples=256))
    assert alarms(short, compiled(), [1]) == [""]


def test_a_liar_from_the_start_is_found_out_by_gold_alone() -> None:
    """All held-out labels are lies: by them the student that has learned the lie is the better one."""
    misled, warned = (course(Liar(turn=1), EARLY, gold=gold) for gold in (0, 8))
    assert misled.served < shipped() - 0.1
    assert misled.promotions > 0
    assert warned.served >= shipped()
    assert warned.delay == setup().policy.chunk


def test_a_study_counts_what_it_shows() -> None:
    short = replace(setup(), at=EARLY, policy=replace(setup().policy, samples=256))
    found = study(short, [(Liar(turn=1), 64), TWENTY[2]])
    assert [row["at"] for row in found["rows"]] == [64, EARLY]
    assert found["below_floor"] == 0
    assert found["stopped"] == sum(row["stopped"] for row in found["rows"])
    assert found["noticed"] == sum(row["delay"] is not None for row in found["rows"]) >= 1
    assert found["floor"] == shipped()
    assert all(row["saved"] == row["served"] - row["unguarded"] for row in found["rows"])


@pytest.mark.slow
def test_none_of_twenty_ends_below_its_floor() -> None:
    found = study(setup(), TWENTY)
    assert len(found["rows"]) == 20
    assert found["below_floor"] == 0
    assert found["noticed"] >= 16
    assert found["mean_saved"] > 0.1


@given(
    st.integers(2, 16).flatmap(lambda width: st.tuples(st.just(width), st.integers(0, width - 1))),
    st.sampled_from([0, 1]),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_a_bit_has_its_value_and_no_other_changes(shape: tuple[int, int], value: int, bank: int, rng: object) -> None:
    width, bit = shape
    low, high = -(1 << (width - 1)), 1 << (width - 1)
    image = np.random.default_rng(rng.randint(0, 99)).integers(low, high, (6, 4))  # type: ignore[attr-defined]
    found = Bits(bank=bank, bit=bit, value=value).applied(image, width)
    assert ((found >> bit) & 1)[:, bank].tolist() == [value] * 6
    assert ((found ^ image) & ((1 << width) - 1) & ~(1 << bit) == 0).all()
    others = np.arange(4) != bank
    assert (found[:, others] == image[:, others]).all()
    assert low <= found.min() <= found.max() < high


@pytest.mark.parametrize("stuck", [True, False])
def test_a_stuck_bit_stays_where_weights_are_written_and_an_upset_goes(stuck: bool) -> None:
    with Driver(FaultyDevice(digits.CORE)) as driver:
        driver.load(compiled().program)
        driver.write_weights(compiled().masters)
        guard = Guard(driver)
        fault = Bits(bank=2, bit=WIDTH - 1, stuck=stuck)
        assert isinstance(driver.device, FaultyDevice)
        driver.device.damage(fault)
        assert (driver.device.emulator.image(Memory.WGT)[:, 2] < 0).all()
        if stuck:
            with pytest.raises(MemoryFault, match=r"numbers of .* read back otherwise"):
                guard.serve()
        else:
            assert guard.serve() is guard.incumbent
            assert all((q == compiled().masters[name]).all() for name, q in driver.read_weights().items())


def test_a_sound_device_is_what_any_other_is() -> None:
    answers = []
    for driver in (Driver(FaultyDevice(digits.CORE)), open_device(digits.CORE)):
        with driver:
            driver.load(compiled().program)
            driver.write_weights(compiled().masters)
            answers.append(driver.infer(digits.scene().x_test[:40]))
    np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize("fault", [Bits(bank=8, bit=0), Bits(bank=0, bit=WIDTH)])
def test_a_bit_there_is_not(fault: Bits) -> None:
    device = FaultyDevice(digits.CORE)
    with pytest.raises(HostError, match=r"banks go to 7, bits to \d+"):
        device.damage(fault)


@pytest.mark.parametrize("at", [0, 100, 1280])
def test_a_fault_must_fall_into_the_run(at: int) -> None:
    with pytest.raises(HostError, match=f"at is {at}: must be a multiple of the chunk, 32, below the 1280 samples"):
        replace(setup(), at=at)
