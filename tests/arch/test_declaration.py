"""Number declarations: the short form, JSON, per-layer overrides, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.arch.declaration import LETTERS, WIDTHS, Declaration, ExponentPolicy, Role, RoleFormat
from insitu.arch.errors import ArchError
from insitu.arch.numbers import Overflow, Rounding

ADAPTIVE = (Role.ACTIVATION, Role.ERROR, Role.GRADIENT)


@st.composite
def role_formats(draw: st.DrawFn, role: Role, *, at_least: int = 0) -> RoleFormat:
    low, high = WIDTHS[role]
    only = {Role.WEIGHT: [Rounding.FLOOR, Rounding.NEAREST], Role.TARGET: [Rounding.NEAREST]}
    only[Role.ACCUMULATOR] = only[Role.TARGET]
    rounding = st.sampled_from(only.get(role, list(Rounding)))
    policy = st.sampled_from(list(ExponentPolicy) if role in ADAPTIVE else [ExponentPolicy.STATIC])
    free = role in (Role.ACTIVATION, Role.ERROR, Role.GRADIENT)
    fixed = Overflow.WRAP if role is Role.ACCUMULATOR else Overflow.SATURATE
    overflow = draw(st.sampled_from(Overflow)) if free else fixed
    return RoleFormat(
        width=draw(st.integers(max(low, at_least), high)),
        rounding=draw(rounding),
        overflow=overflow,
        exponent=draw(policy),
    )


@st.composite
def declarations(draw: st.DrawFn) -> Declaration:
    formats = {r.value: draw(role_formats(r)) for r in Role if r is not Role.MASTER}
    formats["master"] = draw(role_formats(Role.MASTER, at_least=formats["weight"].width))
    layers: dict[str, dict[str, RoleFormat]] = {}
    for layer in draw(st.lists(st.sampled_from(["fc1", "fc2", "conv"]), unique=True)):
        roles = draw(st.lists(st.sampled_from(list(ADAPTIVE)), unique=True))
        layers[layer] = {r.value: draw(role_formats(r)) for r in roles}
    return Declaration(**formats, layers=layers)


@given(declarations())
def test_json_round_trip(declaration: Declaration) -> None:
    assert Declaration.from_json(json.loads(json.dumps(declaration.to_json()))) == declaration


@given(declarations())
def test_short_round_trip(declaration: Declaration) -> None:
    parsed = Declaration.parse(declaration.short)
    assert [parsed.role(r).width for r in Role] == [declaration.role(r).width for r in Role]
    assert parsed.short == declaration.short


def test_letters_name_every_role() -> None:
    assert set(LETTERS.values()) == set(Role)
    assert set(WIDTHS) == set(Role)


def test_the_default() -> None:
    assert Declaration().short == "w8a8e8g8m16c32t8"
    assert Declaration.parse("w8a8e8g8") == Declaration()


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("w8a8e8g8", "w8a8e8g8m16c32t8"),
        ("w4", "w4a8e8g8m8c32t8"),
        ("w2a2", "w2a2e8g8m8c32t8"),
        ("w16", "w16a8e8g8m32c32t8"),
        ("w12m13", "w12a8e8g8m13c32t8"),
        ("t4c48m32g2e16a9w5", "w5a9e16g2m32c48t4"),
        ("a6", "w8a6e8g8m16c32t8"),
    ],
)
def test_parse(text: str, short: str) -> None:
    assert Declaration.parse(text).short == short


@pytest.mark.parametrize("policy", ExponentPolicy)
def test_parse_sets_the_policy_of_what_adapts(policy: ExponentPolicy) -> None:
    for given_as in (policy, policy.value):
        declaration = Declaration.parse("w8", exponent=given_as)
        for role in Role:
            expected = policy if role in ADAPTIVE else ExponentPolicy.STATIC
            assert declaration.role(role).exponent is expected


def test_parse_sets_single_roundings() -> None:
    declaration = Declaration.parse("w8", rounding={"error": Rounding.PSEUDO, "weight": Rounding.FLOOR})
    assert declaration.error.rounding is Rounding.PSEUDO
    assert declaration.weight.rounding is Rounding.FLOOR
    assert declaration.gradient == Declaration().gradient


@pytest.mark.parametrize("text", ["", "8", "w", "w8a", "W8", "w8 a8", "w8-a8", "w8w8", "w-8", "w8x", "w8.5"])
def test_texts_that_are_no_format(text: str) -> None:
    with pytest.raises(ArchError, match=f"format {text!r}"):
        Declaration.parse(text)


@pytest.mark.parametrize(
    ("text", "options", "bad"),
    [
        ("w8z9", {}, "no role 'z'"),
        ("w1", {}, "weight of 1 bits: allowed are 2 to 16"),
        ("w17m32", {}, "weight of 17 bits: allowed are 2 to 16"),
        ("a99", {}, "activation of 99 bits: allowed are 2 to 16"),
        ("c7", {}, "accumulator of 7 bits: allowed are 8 to 48"),
        ("c49", {}, "accumulator of 49 bits: allowed are 8 to 48"),
        ("w8m33", {}, "master of 33 bits: allowed are 2 to 32"),
        ("w8m7", {}, "master of 7 bits under a weight of 8"),
        ("w8", {"exponent": "sometimes"}, "'sometimes': allowed are static, delayed, exact"),
        ("w8", {"rounding": {"weight": Rounding.STOCHASTIC}}, "weight rounding STOCHASTIC"),
        ("w8", {"rounding": {"bias": Rounding.FLOOR}}, "bias"),
    ],
)
def test_parse_refuses(text: str, options: dict[str, Any], bad: str) -> None:
    with pytest.raises(ArchError, match=bad):
        Declaration.parse(text, **options)


def test_a_layer_overrides_whole_roles() -> None:
    narrow = RoleFormat(width=3, rounding=Rounding.FLOOR)
    declaration = Declaration(layers={"fc2": {"activation": narrow}})
    assert declaration.at("fc2").activation == narrow
    assert declaration.at("fc2").error == declaration.error
    assert declaration.at("fc2").layers == {}
    assert declaration.at("fc1") == Declaration()


@pytest.mark.parametrize(
    ("override", "bad"),
    [
        ({"bias": RoleFormat(width=8)}, "bias"),
        ({"weight": RoleFormat(width=17)}, "weight of 17 bits"),
        ({"master": RoleFormat(width=4)}, "master of 4 bits under a weight of 8"),
        ({"weight": RoleFormat(width=8, rounding=Rounding.PSEUDO)}, "weight rounding PSEUDO"),
        ({"weight": RoleFormat(width=8, exponent=ExponentPolicy.DELAYED)}, "weight exponents delayed"),
        ({"master": RoleFormat(width=16, overflow=Overflow.WRAP)}, "master overflow WRAP"),
        ({"accumulator": RoleFormat(width=24)}, "accumulator cannot differ by layer"),
        ({"target": RoleFormat(width=4)}, "target cannot differ by layer"),
    ],
)
def test_errors_name_the_layer(override: dict[str, RoleFormat], bad: str) -> None:
    with pytest.raises(ArchError, match=rf"layer 'fc2'.*{bad}"):
        Declaration(layers={"fc2": override})


@pytest.mark.parametrize("role", [r for r in Role if r not in ADAPTIVE])
@pytest.mark.parametrize("policy", [ExponentPolicy.DELAYED, ExponentPolicy.EXACT])
def test_what_adapts_is_named(role: Role, policy: ExponentPolicy) -> None:
    with pytest.raises(ArchError, match=f"{role} exponents {policy}"):
        Declaration().with_roles(role, exponent=policy)


def test_with_roles_changes_just_those() -> None:
    changed = Declaration().with_roles(Role.ERROR, Role.GRADIENT, rounding=Rounding.PSEUDO)
    assert changed.error == replace(Declaration().error, rounding=Rounding.PSEUDO)
    assert changed.gradient == replace(Declaration().gradient, rounding=Rounding.PSEUDO)
    assert replace(changed, error=Declaration().error, gradient=Declaration().gradient) == Declaration()


def broken(**changes: Any) -> dict[str, Any]:
    return Declaration().to_json() | changes


GOOD = {"width": 8, "rounding": 1, "overflow": 0, "exponent": "static"}


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {k: v for k, v in broken().items() if k != "error"},
        {k: v for k, v in broken().items() if k != "layers"},
        broken(velocity=GOOD),
        broken(weight=8),
        broken(weight={"width": 8}),
        broken(weight=GOOD | {"sign": 1}),
        broken(weight=GOOD | {"width": "wide"}),
        broken(weight=GOOD | {"rounding": 4}),
        broken(weight=GOOD | {"overflow": 2}),
        broken(weight=GOOD | {"exponent": "sometimes"}),
        broken(layers=[]),
        broken(layers={"fc1": 3}),
        broken(layers={"fc1": {"bias": GOOD}}),
    ],
)
def test_json_that_is_no_declaration(data: Any) -> None:
    with pytest.raises(ArchError):
        Declaration.from_json(data)
