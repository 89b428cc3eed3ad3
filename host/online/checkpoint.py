"""An online run's checkpoint: one file, whole or refused, that only the run it was made by goes on from."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.arch.errors import ArchError
from insitu.arch.files import write_whole
from insitu.arch.program import Program
from insitu.host.device.snapshot import Snapshot
from insitu.host.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a run stands.

    identity: what the run is, a JSON object as `canonical` writes it. training: the device. served: the guard's
    incumbent. first: the weights the run began with. progress, guard: the loop's and the guard's state. notes: what
    whoever runs the loop wants kept. The last three are JSON-ready. program: of a student that was shrunk since, whose
    weights these are; None where it is the one that the run compiles.
    """

    identity: str
    training: Snapshot
    served: Snapshot
    first: Snapshot
    progress: dict[str, Any]
    guard: dict[str, Any]
    notes: dict[str, Any]
    program: Program | None = None

    def save(self, path: Path) -> None:
        """Write it whole or not at all."""
        state = {name: getattr(self, name) for name in ("identity", "progress", "guard", "notes")}
        extra: dict[str, Any] = {"state": np.frombuffer(json.dumps(state).encode(), np.uint8)}
        for name in ("served", "first"):
            snapshot: Snapshot = getattr(self, name)
            extra |= {f"{name}/{part}": values for part, values in snapshot.arrays().items()}
        if self.program is not None:
            extra["program"] = np.frombuffer(self.program.to_bytes(), np.uint8)
        write_whole(path, self.training.to_bytes(**extra))

    @classmethod
    def load(cls, path: Path, program: Program, identity: str) -> Checkpoint:
        """Read what `save` wrote; `program` is the one that the run compiles. Raises CheckpointError where the file is
        damaged, or was made by a run of another identity: then it names what differs."""
        state, own = _state(path)
        differ = differences(state["identity"], identity)
        if differ:
            raise CheckpointError(f"{path.parent} holds a run of {differ}: give this one another folder")
        return cls._of(path, state, own, program)

    @classmethod
    def own(cls, path: Path, program: Program | None = None) -> Checkpoint:
        """Read what `save` wrote, whosever it is, with the program that it has, or else with `program`. Raises
        CheckpointError where the file is damaged, or has no program and none is given."""
        state, own = _state(path)
        if own is None and program is None:
            raise CheckpointError(f"{path} has no program of its own")
        return cls._of(path, state, own, program)

    @classmethod
    def _of(cls, path: Path, state: dict[str, Any], own: Program | None, program: Program | None) -> Checkpoint:
        known = program if own is None else own
        assert known is not None
        training, extra = Snapshot.load(path, known)
        try:
            served, first = _snapshot("served", extra), _snapshot("first", extra)
            return cls(training=training, served=served, first=first, program=own, **state)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: no online run's checkpoint ({error!r})") from error


def canonical(what: Mapping[str, Any]) -> str:
    """A mapping as JSON, the same text for the same contents."""
    return json.dumps(what, sort_keys=True, separators=(",", ":"))


def differences(made: str, wanted: str) -> str:
    """The fields in which two JSON objects differ, with both values, on one line; "" where there are none."""
    old, new = _flat("", json.loads(made)), _flat("", json.loads(wanted))
    names = [name for name in old | new if old.get(name) != new.get(name)]
    return "; ".join(f"{name} {old.get(name, 'unset')}, not {new.get(name, 'unset')}" for name in names)


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    """Nested objects as one: {"a": {"b": 1}} -> {"a.b": 1}."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    inner = [_flat(f"{prefix}.{name}" if prefix else name, part) for name, part in value.items()]
    return {name: part for flat in inner for name, part in flat.items()}


def _state(path: Path) -> tuple[dict[str, Any], Program | None]:
    """The JSON part of a checkpoint and its own program, before anything is known of its weights."""
    data = path.read_bytes()
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            state = json.loads(file["state"].tobytes())
            own = Program.from_bytes(file["program"].tobytes()) if "program" in file.files else None
        return {**state, "identity": canonical(json.loads(state["identity"]))}, own
    except (
        ArchError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        EOFError,
        OSError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise CheckpointError(f"{path}: no online run's checkpoint, or a damaged one ({error})") from error


def _snapshot(name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Snapshot:
    prefix = f"{name}/"
    return Snapshot.take({key.removeprefix(prefix): q for key, q in arrays.items() if key.startswith(prefix)})
