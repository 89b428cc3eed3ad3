import dataclasses

import pytest
import torch

from insitu.arch.declaration import Declaration
from insitu.arch.errors import ArchError
from insitu.arch.params import CoreParams
from insitu.host import scaling
from insitu.host.errors import CompileError, HostError
from insitu.host.scaling import Budget, Fitted, Search, best, fit, measure
from insitu.models import datasets
from insitu.models.errors import InvalidInputError
from insitu.models.scaling import Coefficients, Size, ladder

DECLARATION = Declaration.parse("w8a8e8g8")
CORE = CoreParams.parse("n=8,act_depth=65536,err_depth=65536,scales=256").with_declaration(DECLARATION)
PAPER = Coefficients(depth=1.2, width=1.1, resolution=1.15)
BASE = Size(phi=0, depth=1, width=1, side=8)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def search(budget, **changes):
    given = {"core": CORE, "declaration": DECLARATION, "batch": 4, "budget": Budget.parse(budget), "side": 8} | changes
    return Search(**given)


def cost(size, **changes):
    return measure(size, **({"core": CORE, "declaration": DECLARATION, "batch": 4} | changes))


def test_a_cost_is_the_programs():
    found = cost(BASE)
    module = BASE.build(channels=1, classes=10, seed=0)
    convolutions = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    # Normalisations are folded: of each there is a bias left.
    assert found.weights == sum(m.weight.numel() + m.weight.shape[0] for m in convolutions)
    assert found.memory["wgt"] * 8 >= found.weights
    assert found.memory["tab"] == 0
    assert cost(BASE, batch=8).cycles > 1.5 * found.cycles
    assert cost(BASE, core=dataclasses.replace(CORE, n=16)).cycles < found.cycles


def test_each_way_to_grow_costs():
    base = cost(BASE)
    deeper, wider = (cost(dataclasses.replace(BASE, **change)) for change in ({"depth": 2.0}, {"width": 1.5}))
    sharper = cost(dataclasses.replace(BASE, side=11))
    assert min(deeper.cycles, wider.cycles, sharper.cycles) > base.cycles
    assert min(deeper.weights, wider.weights) > base.weights == sharper.weights
    assert sharper.memory["act"] > base.memory["act"]


def test_what_a_core_does_not_hold_has_no_cost():
    with pytest.raises(CompileError, match="ACT holds 100 words"):
        cost(BASE, core=dataclasses.replace(CORE, act_depth=100))


@pytest.mark.parametrize("budget", ["cycles=55000", "cycles=250000", "act=6000", "err=4500", "cells=300,cycles=70000"])
def test_the_largest_is_within_and_the_next_is_not(budget):
    look = search(budget)
    found = look.largest(PAPER)
    sizes = ladder(PAPER, 8)
    at = sizes.index(found.size)
    # Every one is looked at, where the search takes a few.
    within = [look.problem(size) is None for size in sizes[: at + 2]]
    assert within == [True] * (at + 1) + [False]
    assert str(sizes[at + 1]) in found.limit
    assert found.cost == look.cost(found.size)


def test_a_budget_of_cycles_is_met_to_the_cycle():
    sizes = ladder(PAPER, 8)
    needs = cost(sizes[3]).cycles
    assert search(f"cycles={needs}").largest(PAPER).size == sizes[3]
    assert search(f"cycles={needs - 1}").largest(PAPER).size == sizes[2]


def test_a_search_compiles_few_sizes(monkeypatch):
    compiled = []
    monkeypatch.setattr(scaling, "measure", lambda size, **given: compiled.append(size) or cost(size))
    search("cycles=100000").largest(PAPER)
    assert len(compiled) < 10 < len(ladder(PAPER, 8))
    assert len(set(compiled)) == len(compiled)


def test_a_smaller_student_than_the_base():
    found = search("cycles=60000", side=16).largest(PAPER)
    assert found.size.phi < 0
    assert found.size.side < 16


def test_a_budget_that_holds_any_student_ends_where_the_student_does():
    flat = Coefficients(depth=1, width=1.4, resolution=1)
    found = search("act=200000,err=200000,wgt=200000", batch=1).largest(flat)
    assert found.limit == "the student has no larger"
    assert found.size == ladder(flat, 8)[-1]


def test_a_budget_too_small_says_what_the_smallest_needs():
    needs = cost(ladder(PAPER, 8)[0]).cycles
    with pytest.raises(HostError, match=f"budget cycles=100: the smallest student, .* takes {needs:,} cycles, of 100"):
        search("cycles=100").largest(PAPER)
    with pytest.raises(HostError, match="budget act=50: .* ACT holds 50 words of 8 elements, [0-9]+ are needed: give"):
        search("act=50").affordable([PAPER])


def test_candidates_that_cannot_be_within_are_left_out():
    wide = Coefficients(depth=1, width=1.4, resolution=1)  # can shrink
    sharp = Coefficients(depth=1, width=1, resolution=1.4)  # cannot: the base's images are the smallest
    base = cost(BASE).cycles
    assert search(f"cycles={base}").affordable([wide, sharp]) == [wide, sharp]
    assert search(f"cycles={base - 1}").affordable([wide, sharp]) == [wide]


def test_a_budgets_memories_and_cells_are_the_cores():
    core = Budget.parse("act=100000,wgt=77,cells=255").core(CORE)
    assert (core.act_depth, core.err_depth, core.wgt_depth, core.n) == (100000, CORE.err_depth, 77, 8)
    assert Budget.parse("cells=256").core(CORE).n == 16
    with pytest.raises(HostError, match="cells=15: the smallest array has 16"):
        Budget.parse("cells=15").core(CORE)
    with pytest.raises(ArchError, match="act_depth=2000000: allowed are"):
        search("act=2000000")


@pytest.mark.parametrize("text", ["", "cycles", "cycles=", "cycles=0", "cycles=-1", "luts=5", "act=1,act=2", "act=1.5"])
def test_budgets_that_are_none(text):
    with pytest.raises(HostError, match=r"budget .* give cycles=, act=, err=, wgt=, cells="):
        Budget.parse(text)


def test_candidates_are_trained_and_judged():
    candidates = [
        Coefficients(depth=1, width=1.4, resolution=1),
        Coefficients(depth=2, width=1, resolution=1),
        Coefficients(depth=1.9, width=1, resolution=1),
    ]
    seen = []
    digits = datasets.load("digits")
    found = fit(digits, candidates, 8, epochs=4, images=1437, seed=0, on_candidate=seen.append)
    assert [f.coefficients for f in found] == candidates
    assert seen == found
    assert found[0].accuracy > 0.8  # chance is 0.1
    assert found[1].parameters == sum(
        p.numel() for p in found[1].size.build(channels=1, classes=10, seed=0).parameters()
    )
    # Two and 1.9 times as deep is the same student.
    assert (found[2].parameters, found[2].accuracy) == (found[1].parameters, found[1].accuracy)
    assert best(found) == max(found, key=lambda f: f.accuracy)


def test_the_images_judged_by_are_not_trained_on(monkeypatch):
    digits = datasets.load("digits")
    parts = []
    monkeypatch.setattr(scaling.training, "train", lambda module, x, y, **_: parts.append(x))
    monkeypatch.setattr(scaling.training, "accuracy", lambda module, x, y: parts.append(x) or 0.5)
    fit(digits, [Coefficients(depth=1, width=1.4, resolution=1)], 8, epochs=1, images=100, seed=0)
    taught, judged = ({image.tobytes() for image in part} for part in parts)
    assert (len(parts[0]), len(parts[1])) == (80, 20)
    assert not taught & judged
    assert not (taught | judged) & {image.tobytes() for image in digits.x_test}


def test_of_candidates_as_good_the_smaller_is_best():
    def fitted(accuracy, parameters):
        return Fitted(coefficients=PAPER, size=BASE, parameters=parameters, accuracy=accuracy)

    assert best([fitted(0.9, 5), fitted(0.9, 4), fitted(0.8, 1)]).parameters == 4


@pytest.mark.parametrize(("epochs", "images"), [(0, 100), (1, 9)])
def test_nothing_to_fit_by(epochs, images):
    with pytest.raises(InvalidInputError, match=f"1 candidates, {epochs} epochs, {images} images; expected at least"):
        fit(datasets.load("digits"), [PAPER], 8, epochs=epochs, images=images, seed=0)
