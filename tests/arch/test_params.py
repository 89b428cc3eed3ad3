"""Core parameters: ranges, derived widths, the hash, and their texts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from hypothesis import given

from insitu.arch.declaration import WIDTHS, Declaration, Role, RoleFormat
from insitu.arch.errors import ArchError
from insitu.arch.isa import MOMENTUM_FIELDS, VECTOR_UNIT, WINDOW_FIELDS, Opcode
from insitu.arch.layout import Memory
from insitu.arch.params import ARCH_VERSION, ARRAY_SIZES, DEPTH_MAX, PRESETS, CoreParams
from tests.reference.drawing import cores

NAMES = [f.name for f in fields(CoreParams)]


def documented_hash(core: CoreParams) -> int:
    """SHA-256 over the sorted, compact JSON of the fields and the architecture's version; its first 8 bytes."""
    text = json.dumps(asdict(core) | {"arch": ARCH_VERSION}, sort_keys=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


@pytest.mark.parametrize("name", PRESETS)
def test_the_hash_follows_its_rule(name: str) -> None:
    assert PRESETS[name].hash == documented_hash(PRESETS[name])


@given(cores(whole=False))
def test_the_hash_depends_on_values_alone(core: CoreParams) -> None:
    assert core.hash == documented_hash(core)
    assert CoreParams(**asdict(core)).hash == core.hash
    assert 0 <= core.hash < 2**64


@pytest.mark.parametrize("name", NAMES)
def test_the_hash_differs_for_each_field(name: str) -> None:
    core = CoreParams()
    others = {"n": 16, "scales": 128, "momentum_bits": 16}
    core = replace(core, vector=0) if name == "windows" else core
    other = replace(core, **{name: others.get(name, getattr(core, name) - 1)})
    assert other.hash != core.hash


def test_presets_differ() -> None:
    assert len({core.hash for core in PRESETS.values()}) == len(PRESETS)
    assert PRESETS["edge8"] == CoreParams()


@given(cores(whole=False))
def test_json_round_trip(core: CoreParams) -> None:
    assert CoreParams.from_json(json.loads(json.dumps(core.to_json()))) == core


@pytest.mark.parametrize("data", [{}, [], None, "edge8", {"n": 8}, asdict(CoreParams()) | {"banks": 3}])
def test_json_that_is_no_core(data: Any) -> None:
    with pytest.raises(ArchError, match=r"not core parameters: expected exactly the fields accumulator_bits, .*n,"):
        CoreParams.from_json(data)


@pytest.mark.parametrize("value", ["8", 8.0, None, True])
@pytest.mark.parametrize("name", ["n", "weight_bits", "act_depth"])
def test_fields_are_integers(name: str, value: Any) -> None:
    with pytest.raises(ArchError, match=f"{name}={value!r}: must be an integer"):
        CoreParams(**{name: value})


@pytest.mark.parametrize("n", [0, 1, 5, 64, -8])
def test_array_sizes(n: int) -> None:
    with pytest.raises(ArchError, match=f"n={n}: .*4, 8, 16, 32"):
        CoreParams(n=n)


@pytest.mark.parametrize("role", Role)
def test_widths_have_both_ends(role: Role) -> None:
    low, high = WIDTHS[role]
    # A master is never narrower than its weight.
    base = {"weight_bits": 2, "master_bits": 32}
    for width in (low, high):
        assert CoreParams(**(base | {f"{role}_bits": width})).width(role) == width
    for width in (low - 1, high + 1):
        with pytest.raises(ArchError, match=f"{role}_bits={width}: allowed are {low} to {high}"):
            CoreParams(**(base | {f"{role}_bits": width}))


def test_a_master_holds_its_weight() -> None:
    assert CoreParams(weight_bits=12, master_bits=12).master_bits == 12
    with pytest.raises(ArchError, match="master_bits=11 under weight_bits=12"):
        CoreParams(weight_bits=12, master_bits=11)


@pytest.mark.parametrize(
    ("name", "high"),
    [
        ("act_depth", DEPTH_MAX),
        ("err_depth", DEPTH_MAX),
        ("wgt_depth", DEPTH_MAX),
        ("tab_depth", 4096),
        ("program_depth", 4095),
    ],
)
def test_depths_have_both_ends(name: str, high: int) -> None:
    for depth in (1, high):
        assert getattr(CoreParams(**{name: depth}), name) == depth
    for depth in (0, high + 1):
        with pytest.raises(ArchError, match=f"{name}={depth}: allowed are 1 to {high}"):
            CoreParams(**{name: depth})


@given(cores(whole=False))
def test_streams_carry_every_memory(core: CoreParams) -> None:
    assert core.n in ARRAY_SIZES
    assert core.cells == core.n**2
    words = {m: core.word_bits(m) for m in core.memories}
    assert words[Memory.ACT] == core.activation_bits
    assert words[Memory.ERR] >= max(core.error_bits, core.target_bits)
    assert words[Memory.WGT] == core.master_bits
    assert words.get(Memory.TAB) == (core.activation_bits if core.vector else None)
    assert core.lane_bits in (8, 16, 32)
    assert core.lane_bits >= max(words.values())
    assert core.lane_bits == 8 or core.lane_bits // 2 < max(words.values())
    assert core.stream_bits >= core.n * core.lane_bits
    assert core.stream_bits % 32 == 0
    depths = [core.act_depth, core.err_depth, core.wgt_depth]
    depths += [core.tab_depth] if core.vector else []
    depths += [core.wgt_depth] if core.momentum_bits else []
    assert [core.depth(m) for m in core.memories] == depths
    assert (Memory.VEL in core.memories) == (core.depth(Memory.VEL) > 0) == (core.word_bits(Memory.VEL) > 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((name, core) for name, core in PRESETS.items()),
        ("n=16", CoreParams(n=16)),
        ("edge8,n=16,wgt_depth=32768", CoreParams(n=16, wgt_depth=32768)),
        ("weight_bits=4,master_bits=9", CoreParams(weight_bits=4, master_bits=9)),
        ("tiny4,act_depth=77", CoreParams(n=4, act_depth=77, err_depth=512, wgt_depth=2048, tab_depth=512)),
        ("tab_depth=1", CoreParams(tab_depth=1)),
    ],
)
def test_parse(text: str, expected: CoreParams) -> None:
    assert CoreParams.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("huge64", "'huge64'.*tiny4, edge8, dense8, edge16, wide32"),
        ("", "core ''"),
        ("edge8,banks=3", "'banks'.*accumulator_bits"),
        ("edge8,n", "'n'"),
        ("edge8,n=", "'n='.*not an integer"),
        ("edge8,n=eight", "'eight' is not an integer"),
        ("edge8,", "''"),
        ("n=7", "n=7"),
        ("n=4,n=8", "'n=4,n=8': n twice"),
        ("wgt_depth=0", "wgt_depth=0"),
    ],
)
def test_parse_refuses(text: str, bad: str) -> None:
    with pytest.raises(ArchError, match=bad):
        CoreParams.parse(text)


@pytest.mark.parametrize("text", ["edge8", "edge16,weight_bits=4,activation_bits=6,master_bits=12,target_bits=5"])
def test_a_declaration_for_a_core_has_just_its_widths(text: str) -> None:
    core = CoreParams.parse(text)
    assert core.with_declaration(core.declaration) == core


def test_a_core_for_a_declaration_has_just_its_widths() -> None:
    declaration = replace(
        Declaration.parse("w4a6e7g5m12c24t3"),
        layers={"fc2": {"activation": RoleFormat(width=9), "weight": RoleFormat(width=3)}},
    )
    core = PRESETS["edge16"].with_declaration(declaration)
    assert core == replace(
        PRESETS["edge16"],
        weight_bits=4,
        activation_bits=9,
        error_bits=7,
        gradient_bits=5,
        master_bits=12,
        accumulator_bits=24,
        target_bits=3,
    )


@pytest.mark.parametrize("name", ["windows", "vector"])
@pytest.mark.parametrize("value", [-1, 2])
def test_a_unit_is_there_or_not(name: str, value: int) -> None:
    with pytest.raises(ArchError, match=rf"{name}={value}: a core has them \(1\) or has them not \(0\)"):
        CoreParams(**{name: value})


def test_the_vector_unit_goes_over_windows() -> None:
    with pytest.raises(ArchError, match="vector=1 with windows=0"):
        CoreParams(windows=0)


def test_what_a_core_lacks_is_gone_and_nothing_else() -> None:
    """Without windows: their fields, pools, the vector unit; without that: its passes and tables."""
    whole, maps, products = CoreParams(momentum_bits=8), CoreParams(vector=0), PRESETS["dense8"]
    assert whole.opcodes == tuple(Opcode)
    assert set(whole.opcodes) - set(maps.opcodes) == set(VECTOR_UNIT)
    assert set(maps.opcodes) - set(products.opcodes) == {Opcode.POOL, Opcode.UNPOOL}
    assert Memory.TAB not in maps.memories
    for opcode in products.opcodes:
        of_whole, of_maps, left = (set(core.fields(opcode)) for core in (whole, maps, products))
        assert of_whole - of_maps == set(MOMENTUM_FIELDS) & of_whole
        assert of_maps - left == set(WINDOW_FIELDS) & of_maps
    assert all(products.fields(opcode) == () for opcode in VECTOR_UNIT)
    assert products.lacks(Opcode.ADD) == ("windows", "vector")
    assert products.lacks(Opcode.FORWARD, "rows", "pad_width") == ("windows",)
    assert products.lacks(Opcode.FORWARD, "rows") == ()
