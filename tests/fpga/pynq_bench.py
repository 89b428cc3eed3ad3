"""What runs inside the simulator for test_cocotb.py: the driver, over the `pynq` backend, over cocotbpynq's PYNQ."""

from __future__ import annotations

import sys
from typing import Any

import cocotbpynq
import numpy as np

from insitu.host.device.driver import Driver
from insitu.host.device.emulated import EmulatedDevice
from tests.fpga.cocotb_core import BASE, CORE, batch, compiled

sys.modules["pynq"] = cocotbpynq


def trained(driver: Driver) -> tuple[Any, Any, Any, Any]:
    """Logits of a training step and of inference, masters, counters."""
    (x, targets), program = batch(), compiled()
    driver.load(program.program)
    driver.write_weights(program.masters)
    logits = driver.train(x, targets)
    return logits, driver.infer(np.vstack([x, -x])), driver.read_weights(), driver.counters


@cocotbpynq.synctest
def same_as_the_emulator(dut: Any = None) -> None:
    from insitu.host.device.pynq import PynqDevice

    with Driver(PynqDevice(CORE, base=BASE)) as board, Driver(EmulatedDevice(CORE)) as emulator:
        got, expected = trained(board), trained(emulator)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])
    for name, masters in expected[2].items():
        np.testing.assert_array_equal(got[2][name], masters)
    assert got[3].macs == expected[3].macs
    assert got[3].instructions == expected[3].instructions
    assert got[3].cycles - got[3].stall_in - got[3].stall_out == expected[3].cycles
