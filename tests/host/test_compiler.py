"""The compiler: what a torch module becomes computes what torch computes, and what it cannot take is told at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from insitu.arch.declaration import Declaration, ExponentPolicy, Role, RoleFormat
from insitu.arch.isa import UPDATES, Instruction, Opcode
from insitu.arch.numbers import FixedFormat, Rounding, clamp
from insitu.arch.program import Program
from insitu.host.compiler import rate
from insitu.host.compiler.compile import Compiled, compile_module
from insitu.host.device import Driver, open_device
from insitu.host.errors import CompileError
from insitu.models.students import mlp
from tests.host import tiny
from tests.host.tiny import BATCH, CLASSES

NEAREST = {role.value: Rounding.NEAREST for role in (Role.ACTIVATION, Role.ERROR, Role.GRADIENT, Role.MASTER)}
WIDE = Declaration.parse("w16a16e16g16m32c48t16", exponent="static", rounding=NEAREST)
CORE = tiny.CORE.with_declaration(WIDE)
X, TARGETS = tiny.samples(BATCH, seed=2)
FEATURES = X[0].size


def compiled(module: nn.Module, **changes: Any) -> Compiled:
    """A module compiled for steps on X: static exponents that hold what such a step makes."""
    given: dict[str, Any] = {"core": CORE, "declaration": WIDE, "batch": BATCH, "calibration": X, "targets": TARGETS}
    return compile_module(module, **given | changes)


def operand(program: Program, layer: str, x: str) -> float:
    """The real value of a layer's bias operand beside the activations a run starts from."""
    exponent = program.scales[program.tensors[x].scale]
    return 2.0 ** (exponent + clamp(program.bias_exponents[layer] - exponent, 0, program.core.activation_bits - 2))


def twin(made: Compiled) -> nn.Sequential:
    """The student in torch, its parameters those that the array sees."""
    module = mlp([FEATURES, tiny.HIDDEN, CLASSES], seed=0).double()
    for layer, x in (("1", "sample"), ("3", "1.y")):
        name = f"{layer}.weight"
        master = made.program.initial_format(name)
        read = FixedFormat(width=16, exponent=master.exponent + 16)
        weight = read.real(read.quantise(master.real(made.masters[name])))
        linear = module[int(layer)]
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight[:, :-1]))
            linear.bias.copy_(torch.from_numpy(weight[:, -1] * operand(made.program, layer, x)))
    return module


def seen(made: Compiled, x: npt.NDArray[np.float32]) -> torch.Tensor:
    fmt = made.program.initial_format("sample")
    return torch.from_numpy(fmt.real(fmt.quantise(x)))


def deltas(made: Compiled, step: Callable[[Driver], object]) -> dict[str, npt.NDArray[np.float64]]:
    """What one step adds to each layer's weights and biases, as real numbers."""
    with open_device(CORE) as driver:
        driver.load(made.program)
        driver.write_weights(made.masters)
        step(driver)
        after = driver.read_weights()
    return {
        name: made.program.initial_format(name).real(after[name].astype(np.int64) - q)
        for name, q in made.masters.items()
    }


def expected(made: Compiled, module: nn.Sequential) -> dict[str, npt.NDArray[np.float64]]:
    """The same of SGD on the gradients torch accumulated; a bias is its column times the operand."""
    update = next(i for i in made.program.instructions if i.opcode is Opcode.UPDATE)
    lr = rate.decode(update.lr_mul, update.lr_shift)
    result = {}
    for layer, x in (("1", "sample"), ("3", "1.y")):
        linear = module[int(layer)]
        bias = linear.bias.grad * operand(made.program, layer, x)
        result[f"{layer}.weight"] = -lr * np.column_stack([linear.weight.grad, bias])
    return result


# The same numbers as torch's.


def test_logits_are_torchs() -> None:
    x, targets = tiny.samples(9, seed=4)
    made = compiled(mlp([FEATURES, tiny.HIDDEN, CLASSES], seed=3), calibration=x, targets=targets)
    with open_device(CORE) as driver:
        driver.load(made.program)
        driver.write_weights(made.masters)
        logits = driver.infer(x)
    wanted = twin(made)(seen(made, x)).detach().numpy()
    # Half a step of the hidden activations through the second layer, and of the logits.
    assert np.abs(logits - wanted).max() < 3 * made.program.initial_format("3.y").step
    original = mlp([FEATURES, tiny.HIDDEN, CLASSES], seed=3)(torch.from_numpy(x)).detach().numpy()
    assert np.abs(logits - original).max() < 1e-3


def test_host_gradient_gives_sgds_step() -> None:
    made = compiled(mlp([FEATURES, tiny.HIDDEN, CLASSES], seed=3), learning_rate=0.3)
    gradient = np.random.default_rng(0).integers(-64, 65, (BATCH, CLASSES)) / 256
    got = deltas(made, lambda driver: driver.train_with(X, lambda _z: gradient))
    module = twin(made)
    module(seen(made, X)).backward(torch.from_numpy(gradient))
    for name, wanted in expected(made, module).items():
        assert np.abs(wanted).max() > 1e-3
        np.testing.assert_allclose(got[name], wanted, rtol=0, atol=2e-4 * np.abs(wanted).max())


def test_loss_on_the_device_gives_nearly_sgds_step() -> None:
    made = compiled(mlp([FEATURES, tiny.HIDDEN, CLASSES], seed=3), learning_rate=0.3)
    soft = 0.8 * TARGETS + 0.2 / CLASSES
    got = deltas(made, lambda driver: driver.train(X, soft))
    module = twin(made)
    (-(torch.from_numpy(soft) * F.log_softmax(module(seen(made, X)), dim=1)).sum()).backward()
    for name, wanted in expected(made, module).items():
        # The exponential is 1 + f between powers of two, at most 6.2 % above 2**f.
        cosine = (got[name] * wanted).sum() / np.sqrt((got[name] ** 2).sum() * (wanted**2).sum())
        assert cosine > 0.995
        assert np.linalg.norm(got[name]) == pytest.approx(np.linalg.norm(wanted), rel=0.1)


def test_learning_rate_is_of_the_mean() -> None:
    made = compiled(mlp([FEATURES, tiny.HIDDEN, CLASSES], seed=3), learning_rate=0.3)
    updates = [i for i in made.program.instructions if i.opcode is Opcode.UPDATE]
    assert [rate.decode(i.lr_mul, i.lr_shift) * BATCH for i in updates] == [pytest.approx(0.3, rel=0.004)] * 4


# One student, many spellings.


class Functional(nn.Module):
    """The student with every layer but Linear as a function or a method."""

    def __init__(self, forward: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(FEATURES, tiny.HIDDEN), nn.Linear(tiny.HIDDEN, CLASSES)
        self._how = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._how(self, x)


SPELLINGS: dict[str, Callable[[], nn.Module]] = {
    "functions": lambda: Functional(lambda m, x: m.fc2(F.dropout(F.relu(m.fc1(torch.flatten(x, 1))), 0.5, m.training))),
    "methods": lambda: Functional(lambda m, x: m.fc2(m.fc1(x.flatten(1)).relu())),
    "keywords": lambda: Functional(lambda m, x: m.fc2(torch.relu(m.fc1(x.flatten(start_dim=1, end_dim=-1))))),
    "dropout": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Identity(),
        nn.Linear(FEATURES, tiny.HIDDEN),
        nn.ReLU(inplace=True),
        nn.Dropout(0.9),
        nn.Linear(tiny.HIDDEN, CLASSES),
    ),
    "nested": lambda: nn.Sequential(
        nn.Flatten(1),
        nn.Sequential(nn.Linear(FEATURES, tiny.HIDDEN), nn.ReLU()),
        nn.Sequential(nn.Linear(tiny.HIDDEN, CLASSES)),
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spelling_changes_nothing(spelling: str) -> None:
    plain = mlp([FEATURES, tiny.HIDDEN, CLASSES], seed=3)
    module = SPELLINGS[spelling]()
    for mine, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        mine.data.copy_(theirs.data)
    made, wanted = compiled(module), compiled(plain)
    np.testing.assert_array_equal(made.program.words, wanted.program.words)
    assert made.program.scales == wanted.program.scales
    for mine, theirs in zip(made.masters.values(), wanted.masters.values(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"core": replace(CORE, wgt_depth=8)}, "WGT holds 8 words"),
        ({"declaration": replace(WIDE, layers={"9": {"weight": WIDE.weight}})}, "overrides layers"),
        ({"core": tiny.CORE}, "bits, this core's has"),
    ],
)
def test_what_cannot_run_is_refused_before_the_student_is_run(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, forward = [], nn.Linear.forward

    def watched(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        ran.append(layer)
        return forward(layer, x)

    module = mlp([FEATURES, tiny.HIDDEN, CLASSES], seed=0)
    monkeypatch.setattr(nn.Linear, "forward", watched)
    with pytest.raises(CompileError, match=message):
        compiled(module, **changes)
    assert not ran
    compiled(module)
    assert ran


def test_compiling_leaves_the_module_as_it_was() -> None:
    module = mlp([FEATURES, tiny.HIDDEN, CLASSES], seed=3)
    module[1].requires_grad_(False)
    module.train()
    compiled(module)
    assert module.training
    assert [p.requires_grad for p in module.parameters()] == [False, False, True, True]
    assert all(p.grad is None for p in module.parameters())


def test_without_bias() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, CLASSES, bias=False))
    made = compiled(module)
    assert made.masters["1.weight"].shape == (CLASSES, FEATURES)
    with open_device(CORE) as driver:
        driver.load(made.program)
        driver.write_weights(made.masters)
        wanted = module(torch.from_numpy(X)).detach().numpy()
        np.testing.assert_allclose(driver.infer(X), wanted, atol=1e-3)


# What comes out.


def passes(program: Program, *opcodes: Opcode) -> list[Instruction]:
    return [i for i in program.entry("train") if i.opcode in opcodes]


def test_entries() -> None:
    program = tiny.compiled().program
    assert set(program.entries) == {"infer", "train", "train_host", "load_weights", "store_weights"}
    for name in program.entries:
        entry = program.entry(name)
        assert [i.opcode for i in entry].count(Opcode.HALT) == 1
        assert entry[-1].opcode is Opcode.HALT
    assert not any(i.track for i in program.entry("infer"))


def test_same_inputs_give_the_same_bytes() -> None:
    def once(**changes: Any) -> bytes:
        return compiled(mlp([FEATURES, tiny.HIDDEN, CLASSES], seed=3), **changes).program.to_bytes()

    assert once() == once()
    assert Program.from_bytes(once()).to_bytes() == once()
    assert once() != once(batch=BATCH - 1)


@pytest.mark.parametrize("policy", ExponentPolicy)
def test_exponent_policy_sets_the_flags(policy: ExponentPolicy) -> None:
    declaration = Declaration.parse("w8a8e8g8", exponent=policy)
    program = compiled(mlp([FEATURES, tiny.HIDDEN, CLASSES], seed=3), declaration=declaration, core=tiny.CORE).program
    found = passes(program, Opcode.FORWARD, Opcode.LOSS, Opcode.BACKWARD, Opcode.UPDATE)
    assert len(found) == 6
    assert {i.track for i in found} == {int(policy is ExponentPolicy.DELAYED)}
    assert {i.exact for i in found} == {int(policy is ExponentPolicy.EXACT)}


def test_policies_can_differ_by_role() -> None:
    declaration = Declaration.parse("w8a8e8g8").with_roles(Role.ERROR, exponent=ExponentPolicy.STATIC)
    program = compiled(mlp([FEATURES, tiny.HIDDEN, CLASSES], seed=3), declaration=declaration, core=tiny.CORE).program
    assert {i.track for i in passes(program, Opcode.FORWARD, Opcode.UPDATE)} == {1}
    assert {i.track for i in passes(program, Opcode.LOSS, Opcode.BACKWARD)} == {0}


def test_a_layers_own_widths_are_kept() -> None:
    narrow = {"activation": 5, "error": 4, "weight": 3, "master": 9}
    declaration = replace(
        Declaration.parse("w8a8e8g8"), layers={"1": {role: RoleFormat(width=bits) for role, bits in narrow.items()}}
    )
    made = compiled(
        mlp([FEATURES, tiny.HIDDEN, CLASSES], seed=3), declaration=declaration, core=tiny.CORE, learning_rate=4.0
    )
    bits = {"1.y": 5, "1.error": 4, "1.weight": 9, "3.y": 8, "3.error": 8, "3.weight": 16}
    assert {name: made.program.tensors[name].width for name in bits} == bits
    reach = dict.fromkeys(bits, 0)
    with open_device(tiny.CORE) as driver:
        driver.load(made.program)
        driver.write_weights(made.masters)
        for seed in range(20):
            driver.train(*tiny.samples(BATCH, seed))
            for name in bits:
                matrix = made.program.tensors[name].matrix
                q = matrix.read(driver.device.emulator.image(matrix.memory))  # type: ignore[attr-defined]
                reach[name] = max(reach[name], int((q ^ (q >> 63)).max()))
    for name, width in bits.items():
        assert reach[name] < 1 << (width - 1)
    # The formats are used, not merely kept out of: what is wide reaches beyond what is narrow.
    assert reach["3.error"] >= 1 << 3
    assert reach["3.weight"] >= 1 << 8
    assert reach["1.y"] >= 1 << 3
    reading = [i for i in made.program.instructions if i.opcode is Opcode.FORWARD]
    assert {(i.weight_width, i.weight_shift) for i in reading} == {(3, 6), (8, 8)}


def test_another_rate_changes_the_updates_only() -> None:
    program = tiny.compiled().program
    changed = rate.with_learning_rate(program, 0.02)
    assert changed.tensors == program.tensors
    assert changed.scales == program.scales
    assert changed.entries == program.entries
    for new, old in zip(changed.instructions, program.instructions, strict=True):
        fields = {k for k, v in asdict(new).items() if v != asdict(old)[k]}
        if old.opcode in UPDATES:
            assert fields <= {"lr_mul", "lr_shift"}
            assert rate.decode(new.lr_mul, new.lr_shift) == pytest.approx(0.02 / BATCH, rel=0.004)
        else:
            assert not fields
