"""What is asked of a shrinking, and whether it can be."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from insitu.arch.declaration import Declaration, Role
from insitu.arch.errors import ArchError
from insitu.arch.params import CoreParams
from insitu.host.detector import Detector
from insitu.host.errors import CheckpointError, HostError
from insitu.host.online.guard import GuardPolicy
from insitu.host.online.policy import OnlinePolicy
from insitu.host.online.request import CHECKPOINT, IDENTITY, PROGRAM, OnlineRun, check_begun
from insitu.host.shrink.criteria import By
from insitu.host.shrink.price import Measure

#: Roles whose tensors may have fewer bits than their core's datapath: an accumulator is as wide as its core's.
LOWERED = tuple(role for role in Role if role is not Role.ACCUMULATOR)


@dataclass(frozen=True, kw_only=True)
class Shrink:
    """folder: an online run's. to: what `measure` counts afterwards, as a share of now; None: no channel goes. by: the
    criterion. bits: widths to come down to, by role. samples: of the store to learn from, at most; epochs: how often
    each; 0: no fine-tuning. lr: at its beginning, falling to zero; None: the run's. clock: of the device, in MHz.
    seed: of all that is drawn; None: the run's. store: the database's URL where it is not the folder's own."""

    folder: Path
    to: float | None = None
    by: By = "thinet"
    measure: Measure = "cycles"
    bits: Mapping[Role, int] = field(default_factory=dict)
    samples: int = 2000
    epochs: int = 1
    lr: float | None = None
    clock: float = 100.0
    seed: int | None = None
    backend: str = "emulator"
    store: str | None = None
    root: str | None = None

    def __post_init__(self) -> None:
        if self.to is None and not self.bits:
            raise HostError("nothing to shrink: give --to, such as 0.5, or --bits, such as activation=6")
        if self.to is not None and not 0 < self.to < 1:
            raise HostError(f"to is {self.to}: must lie between 0 and 1, a share of what it is now")
        for name, allowed in (("by", By), ("measure", Measure)):
            if getattr(self, name) not in get_args(allowed):
                raise HostError(f"{name} is {getattr(self, name)!r}: allowed are {', '.join(get_args(allowed))}")
        for name, low in (("samples", 1), ("epochs", 0)):
            if getattr(self, name) < low:
                raise HostError(f"{name} is {getattr(self, name)}: must be at least {low}")
        for name in ("lr", "clock"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise HostError(f"{name} is {value}: must be finite and above 0")


def bits(text: str) -> dict[Role, int]:
    """Read "act=6,weight=4": roles, or the beginnings of their names, and widths. Raises HostError for anything
    else."""
    found: dict[Role, int] = {}
    for item in text.split(","):
        name, _, width = item.partition("=")
        roles = [role for role in LOWERED if name and role.startswith(name)]
        if len(roles) != 1 or roles[0] in found or not (width.isascii() and width.isdigit()):
            raise HostError(
                f"bits {item!r} of {text!r}: give {', '.join(f'{r}=' for r in LOWERED)} once each, integers"
            )
        found[roles[0]] = int(width)
    return found


def narrowed(declaration: Declaration, widths: Mapping[Role, int]) -> Declaration:
    """A declaration with some roles' widths brought down, overrides of layers too. Raises HostError where one would not
    come down, ArchError where it cannot."""
    for role, width in widths.items():
        now = declaration.role(role).width
        if not width < now:
            raise HostError(f"bits {role}={width}: it has {now} now, and widths are only brought down")
        declaration = declaration.with_roles(role, width=width)
    layers = {
        layer: {
            name: replace(fmt, width=min(fmt.width, widths.get(Role(name), fmt.width))) for name, fmt in own.items()
        }
        for layer, own in declaration.layers.items()
    }
    return replace(declaration, layers=layers)


def recorded(request: Shrink) -> OnlineRun:
    """The online run whose folder it is. Raises CheckpointError where it is none, or has no checkpoint yet."""
    check_begun(request.folder, IDENTITY, CHECKPOINT, PROGRAM)
    path = request.folder / IDENTITY
    try:
        said: Any = json.loads(path.read_text())
        if not isinstance(said, dict):
            raise TypeError(f"{type(said).__name__}, not an object")
        policy = said.pop("policy") | {"samples": 1}
        store = said.pop("store")
        for part_of, kind in (("detector", Detector), ("guard", GuardPolicy)):
            policy[part_of] = kind(**policy[part_of])
        del said["format"]
        said["core"] = CoreParams.from_json(said["core"])
        said["declaration"] = Declaration.from_json(said["declaration"])
        run = OnlineRun(
            **said,
            policy=OnlinePolicy(**policy),
            out=request.folder,
            store=request.store,
            root=request.root,
            backend=request.backend,
        )
    except (KeyError, TypeError, ValueError, ArchError) as error:
        raise CheckpointError(f"{path}: no online run's identity, or a damaged one ({error})") from error
    if store is not None and request.store is None:
        raise HostError(f"{request.folder} keeps its feedback in {store}: give its URL with --store")
    return run
