"""The core and the address of test_cocotb.py, inside and outside the simulator."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from amaranth.lib.wiring import Flow

from insitu.arch.declaration import Declaration
from insitu.arch.params import CoreParams
from insitu.fpga.axi_lite import AXI_LITE
from insitu.fpga.axi_stream import axi_stream
from insitu.fpga.elaborate import TOP
from insitu.host.compiler.compile import Compiled, compile_module
from insitu.models.students import mlp

#: Beats of 32 bits: what cocotbpynq's DMA moves.
CORE = CoreParams(n=4, master_bits=8, act_depth=64, err_depth=32, wgt_depth=64, program_depth=64, windows=0, vector=0)
BASE = 0x4000_0000


def batch() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Samples and targets of a batch."""
    rng = np.random.default_rng(0)
    x = rng.random((4, 10), dtype=np.float32)
    return x, np.eye(3, dtype=np.float32)[rng.integers(0, 3, 4)]


def compiled() -> Compiled:
    """A student in a program for CORE."""
    x, targets = batch()
    return compile_module(
        mlp([10, 6, 3], seed=3),
        core=CORE,
        declaration=Declaration.parse("w4a8e8g8m8"),
        batch=4,
        calibration=x,
        targets=targets,
        learning_rate=0.5,
    )


def wrapper() -> str:
    """Verilog of a module `board` around the core whose clock is named as cocotbpynq wants it, and without the input's
    TKEEP, which its DMA does not drive."""
    beats = axi_stream(CORE.stream_bits).members
    members = [(f"s_axi_{name}", m.flip()) for name, m in AXI_LITE.members.items()]
    members += [(f"s_axis_{name}", m.flip()) for name, m in beats.items()]
    members += [(f"m_axis_{name}", m) for name, m in beats.items()]
    ports, joins = ["input clk", "input aresetn"], [".aclk(clk)", ".aresetn(aresetn)"]
    for name, member in members:
        if name == "s_axis_tkeep":
            joins.append(f".{name}({member.shape}'d{(1 << member.shape) - 1})")
            continue
        direction = "input" if member.flow is Flow.In else "output"
        ports.append(f"{direction} [{member.shape - 1}:0] {name}")
        joins.append(f".{name}({name})")
    return f"\nmodule board({', '.join(ports)});\n  {TOP} core({', '.join(joins)});\nendmodule\n"
