"""All that a program's run depends on in a device: masters, scale registers, seed; as a file, whole or refused."""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch.declaration import Role
from insitu.arch.files import write_whole
from insitu.arch.program import Program
from insitu.host.errors import CheckpointError

_WEIGHT, _VELOCITY = "weight/", "velocity/"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """masters: tensor name -> int32 [outputs, taps * inputs (+ 1)]; velocities: the same, empty where the optimiser has
    none; scales: int64 [registers, 2], exponent and next."""

    masters: dict[str, npt.NDArray[np.int32]]
    scales: npt.NDArray[np.int64]
    seed: int
    velocities: dict[str, npt.NDArray[np.int32]] = field(default_factory=dict)

    def to_bytes(self, **extra: npt.ArrayLike) -> bytes:
        """The snapshot, and further arrays of the caller's, as an .npz."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = self.arrays() | extra
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    def arrays(self) -> dict[str, Any]:
        """All of it by name."""
        found: dict[str, Any] = {_WEIGHT + name: q for name, q in self.masters.items()}
        found |= {_VELOCITY + name: q for name, q in self.velocities.items()}
        return found | {"scales": self.scales, "seed": np.int64(self.seed)}

    @classmethod
    def take(cls, arrays: dict[str, npt.NDArray[Any]]) -> Snapshot:
        """The snapshot of what `arrays` gives, taken out of `arrays`. Raises KeyError where something is missing."""

        def named(prefix: str) -> dict[str, npt.NDArray[Any]]:
            return {k.removeprefix(prefix): arrays.pop(k) for k in list(arrays) if k.startswith(prefix)}

        return cls(
            masters=named(_WEIGHT),
            velocities=named(_VELOCITY),
            scales=arrays.pop("scales"),
            seed=int(arrays.pop("seed")),
        )

    def save(self, path: str | Path, **extra: npt.ArrayLike) -> None:
        """Write `to_bytes` whole or not at all."""
        write_whole(path, self.to_bytes(**extra))

    @classmethod
    def load(cls, path: str | Path, program: Program) -> tuple[Snapshot, dict[str, npt.NDArray[Any]]]:
        """A snapshot and the caller's further arrays. Raises CheckpointError where the file is damaged or belongs to
        a program of other tensors, FileNotFoundError where there is none."""
        data = Path(path).read_bytes()
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            snapshot = cls.take(arrays)
        except (ValueError, KeyError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise CheckpointError(f"{path}: no checkpoint, or a damaged one ({error})") from error
        held = (Role.MASTER, Role.MOMENTUM)
        expected = {name: (t.matrix.rows, t.matrix.width) for name, t in program.tensors.items() if t.role in held}
        found = {name: q.shape for part in (snapshot.masters, snapshot.velocities) for name, q in part.items()}
        if found != expected or snapshot.scales.shape != (len(program.scales), 2):
            raise CheckpointError(f"{path}: a checkpoint of weights {found}, this program has {expected}")
        return snapshot, arrays
