"""What cores take of an FPGA: synthesised, each once, or estimated by a model fitted to some that were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch.declaration import Role
from insitu.arch.layout import Memory
from insitu.arch.params import CoreParams
from insitu.fpga.targets import RESOURCES

SYNTHESISED, ESTIMATED = "synthesis", "model"


def key(core: CoreParams, target: str) -> str:
    """What an area is known by in a study's storage."""
    return f"{target}:{core.hash:016x}"


def memory_bits(core: CoreParams) -> int:
    """Bits of a core's memories."""
    return sum(core.depth(m) * core.n * core.word_bits(m) for m in core.memories)


def synthesise(request: Mapping[str, Any]) -> dict[str, Any]:
    """A job: `core`, a `CoreParams.to_json`, for `target`; what it takes, and with which tools. Raises ToolError."""
    from insitu.fpga import synth, yosys

    core = CoreParams.from_json(request["core"])
    cost = synth.synthesise(core, request["target"])
    found = {name: getattr(cost, name) for name in RESOURCES}
    tool = yosys.find(synthesis=True)[1]
    return {**found, "mhz": cost.mhz, "source": SYNTHESISED, "tool": tool, "core": request["core"]}


def features(core: CoreParams) -> npt.NDArray[np.float64]:
    """What the area of a core is estimated from: log2 of the array's side, bits of each role, log2 of the memories, and
    the units it has."""
    widths = [float(core.width(role)) for role in Role]
    # Velocities lie as deep as their masters.
    depths = [np.log2(max(1, core.depth(m))) for m in Memory if m is not Memory.VEL]
    return np.array([np.log2(core.n), *widths, *depths, float(core.windows), float(core.vector)])


def spread(cores: Sequence[CoreParams], count: int) -> list[CoreParams]:
    """`count` of some cores, as unlike one another as they come: the first, then always the one furthest from all those
    chosen."""
    table = np.array([features(core) for core in cores])
    scale = np.ptp(table, axis=0)
    table = table / np.where(scale > 0, scale, 1.0)
    chosen = [0]
    while len(chosen) < min(count, len(cores)):
        nearest = ((table[:, None] - table[chosen][None]) ** 2).sum(axis=2).min(axis=1)
        if nearest.max() == 0:
            break
        chosen.append(int(nearest.argmax()))
    return [cores[i] for i in chosen]


@dataclass(frozen=True, kw_only=True)
class Model:
    """Ridge regression of the logarithm of each resource on `features`.

    weights: resource -> intercept and a weight a feature. error: resource -> mean relative error of cores left out of
    the fit one at a time. cores: how many it was fitted to.
    """

    weights: Mapping[str, Sequence[float]]
    error: Mapping[str, float]
    cores: int

    def estimate(self, core: CoreParams) -> dict[str, Any]:
        """The area of a core, marked as an estimate, with the model's error."""
        x = np.concatenate([[1.0], features(core)])
        found = {name: round(float(np.expm1(x @ np.array(w)))) for name, w in self.weights.items()}
        return {**found, "mhz": None, "source": ESTIMATED, "error": dict(self.error), "fitted_to": self.cores}

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `Model(**data)` reads it back."""
        return asdict(self)


def fit(cores: Sequence[CoreParams], areas: Sequence[Mapping[str, Any]]) -> Model:
    """The model of some cores' areas, at least three."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import LeaveOneOut, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.array([features(core) for core in cores])
    weights, error = {}, {}
    for name in RESOURCES:
        real = np.array([float(area[name]) for area in areas])
        # Half a percent of a standard deviation of shrinkage settles features that say the same.
        model = make_pipeline(StandardScaler(), Ridge(alpha=0.05))
        left_out = np.expm1(cross_val_predict(model, x, np.log1p(real), cv=LeaveOneOut()))
        error[name] = float(np.mean(np.abs(left_out - real) / np.maximum(real, 1)))
        model.fit(x, np.log1p(real))
        scaler, ridge = model[0], model[1]
        slopes = ridge.coef_ / scaler.scale_
        weights[name] = [float(ridge.intercept_ - slopes @ scaler.mean_), *map(float, slopes)]
    return Model(weights=weights, error=error, cores=len(cores))


def unknown(cores: Iterable[CoreParams], known: Mapping[str, Any], target: str) -> list[CoreParams]:
    """Of some cores those whose area nobody knows, each once."""
    found = {key(core, target): core for core in cores}
    return [core for name, core in found.items() if name not in known]
