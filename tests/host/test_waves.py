"""Waveforms of a verification, read back by a library of others: VCD and FST of both engines name what runs."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pytest
import pywellen

from insitu.arch.isa import Instruction, Opcode
from insitu.arch.layout import Memory, blocks
from insitu.arch.place import NO_MEMORY, operand_name, place
from insitu.host.cli import main
from insitu.host.errors import DeviceError
from insitu.host.verify import open_engine, training, verify
from insitu.sim.rtl import waves
from tests.host import tiny

N = tiny.CORE.n


class Waves:
    """A file's signals by their last names."""

    def __init__(self, path: Path) -> None:
        self._file = pywellen.Waveform(str(path))
        self._vars = {var.full_name.split(".")[-1]: var for var in self._file.all_vars()}
        self.names = set(self._vars)

    def values(self, name: str) -> list[str | int]:
        """What a signal was, one after the other; letters where its bits are ASCII."""
        var = self._vars[name]
        out = [value for _, value in var.tv]
        if var.is_string:
            return list(out)
        if not isinstance(out[0], int | str):
            return []
        numbers = [v if isinstance(v, int) else int(v, 2) if set(v) <= {"0", "1"} else 0 for v in out]
        if not name.endswith("_name"):
            return list(numbers)
        return [number.to_bytes(32, "big").lstrip(b"\0").decode() for number in numbers]


def trace(path: Path, kind: str) -> tuple[Waves, Sequence[Instruction]]:
    """Verify the weights' way in and a training step; the waveforms, and the instructions that ran."""
    compiled = tiny.compiled()
    x, targets = tiny.samples(tiny.BATCH, seed=4)
    runs = list(training(compiled.program, compiled.masters, x, targets, steps=1))[:2]
    engine = open_engine(tiny.CORE, kind, waves=path)
    try:
        result = verify(compiled.program, runs, engine)
    finally:
        engine.close()
    assert result.mismatches == 0, str(result.first)
    ran = [i for run in runs for i in compiled.program.entry(run.entry)]
    assert len(ran) == result.instructions
    return Waves(path), ran


def told(values: Sequence[str | int]) -> list[str]:
    """Without HALT, which zeros are too, and each once where it follows itself."""
    return [str(key) for key, _ in groupby(v for v in values if v not in ("", "HALT"))]


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("rtl", ".vcd"),
        ("rtl", ".fst"),
        pytest.param("pysim", ".fst", marks=pytest.mark.slow),
        pytest.param("pysim", ".vcd", marks=pytest.mark.slow),
    ],
)
def test_a_waveform_names_what_runs(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"run{suffix}"
    shown, ran = trace(path, kind)
    left = {p.suffix for p in tmp_path.iterdir()}
    assert left == {suffix, ".gtkw"} if kind == "pysim" else {suffix}
    assert {"opcode", "opcode_name", "pc", "tile_row", "tile_col", "row"} <= shown.names

    # Fields stay until the next fetch, and a reset clears them: what is told is what ran, in order.
    opcodes = [i.opcode.name for i in ran]
    assert told(shown.values("opcode_name")) == told(opcodes)
    names = {place(t.matrix.memory, t.matrix.base): name for name, t in tiny.compiled().program.tensors.items()}
    for operand in "abd":
        signal = f"operand_{operand}" + ("_name" if kind == "rtl" else "")
        seen = {str(value) for value in shown.values(signal)}
        for i in ran:
            matrix = i.matrices.get(operand)
            if matrix is not None:
                assert names[place(matrix.memory, matrix.base)] in seen, (operand, str(i))
    assert "1.weight" in {str(value) for value in shown.values(signal)}
    products = [i for i in ran if i.opcode in (Opcode.FORWARD, Opcode.BACKWARD, Opcode.UPDATE)]
    assert max(map(int, shown.values("tile_row"))) == max(blocks(i.rows, N) for i in products) - 1
    assert max(map(int, shown.values("tile_col"))) >= max(blocks(i.cols, N) for i in products) - 1
    written = [i.rows for i in ran if i.opcode not in (Opcode.STORE, Opcode.HALT)]
    assert max(map(int, shown.values("row"))) == max(written) - 1


def test_an_fst_holds_what_the_vcd_held(tmp_path: Path) -> None:
    trace(tmp_path / "run.vcd", "rtl")
    waves.to_fst(tmp_path / "run.vcd", tmp_path / "run.fst")
    vcd, fst = Waves(tmp_path / "run.vcd"), Waves(tmp_path / "run.fst")
    assert fst.names == vcd.names
    assert len(vcd.names) > 500
    for name in sorted(vcd.names):
        if not any(character in name for character in "$\\<>"):
            assert fst.values(name) == vcd.values(name), name
    assert (tmp_path / "run.fst").stat().st_size < (tmp_path / "run.vcd").stat().st_size / 4


def test_what_has_no_name_is_shown_by_its_place() -> None:
    assert operand_name(place(Memory.ERR, 0x12), {}) == "ERR[0x12]"
    assert operand_name(place(Memory.ERR, 0x12), {place(Memory.ERR, 0x12): "2.error"}) == "2.error"
    assert operand_name(place(NO_MEMORY, 0), {}) == ""


@pytest.mark.parametrize("kind", ["rtl", "pysim"])
def test_without_the_library_an_fst_is_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waves, "has_library", lambda: False)
    with pytest.raises(DeviceError, match=r"run\.fst: no pylibfst.*insitu's extra"):
        open_engine(tiny.CORE, kind, waves=tmp_path / "run.fst")
    gc.collect()  # nothing half made is left behind to warn when another test runs


def test_from_the_shell(tmp_path: Path) -> None:
    path = tmp_path / "shell.FST"
    core = "n=4,act_depth=64,err_depth=32,wgt_depth=64,program_depth=64,weight_bits=8,master_bits=16"
    model = ["--model", "mlp:6-3", "--in-shape", "1x2x3", "--classes", "3", "--batch", "3", "--steps", "1"]
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--core", core, *model, "--waves", str(path)])
    assert not ended.value.code
    assert "1.weight" in {str(value) for value in Waves(path).values("operand_d_name")}
