"""The RTL before judges that are not ours: PYNQ and its DMA as cocotbpynq plays them, AXI as cocotbext-axi has it."""

from __future__ import annotations

from pathlib import Path

from insitu.arch.registers import WINDOW
from insitu.fpga.axi_lite import AXI_LITE
from insitu.fpga.axi_stream import axi_stream
from tests.fpga.cocotb_core import BASE, CORE
from tests.fpga.cocotb_runner import run

SCRIPT = """
import sys
from pathlib import Path
from tests.fpga.cocotb_runner import simulate
from tests.fpga.cocotb_core import CORE, wrapper
folder = Path(sys.argv[1])
simulate(CORE, sys.argv[2:], folder, {"HWH_LOCATION_DIR": str(folder)}, wrapper=("board", wrapper()))
"""


def handoff() -> str:
    """The part of a hardware handoff that an overlay reads: the core, its DMA, the processor's memory map."""

    def bus(name: str, kind: str, wire: str, ports: list[str]) -> str:
        maps = "".join(f'<PORTMAP LOGICAL="{p.upper()}" PHYSICAL="{name}_{p}"/>' for p in ports)
        vlnv = f"xilinx.com:interface:{'axis' if 'axis' in name else 'aximm'}:1.0"
        return (
            f'<BUSINTERFACE BUSNAME="{wire}" NAME="{name}" TYPE="{kind}" VLNV="{vlnv}">'
            f"<PORTMAPS>{maps}</PORTMAPS></BUSINTERFACE>"
        )

    beats = list(axi_stream(CORE.stream_bits).members)
    buses = [
        bus("s_axi", "SLAVE", "registers", list(AXI_LITE.members)),
        bus("s_axis", "TARGET", "to_core", [name for name in beats if name != "tkeep"]),
        bus("m_axis", "INITIATOR", "from_core", beats),
    ]
    stream = 'VLNV="xilinx.com:interface:axis:1.0"'
    memory = (
        f'<MEMRANGE INSTANCE="core_0" BASEVALUE="{BASE:#x}" HIGHVALUE="{BASE + WINDOW - 1 + 0x1000:#x}" '
        'SLAVEBUSINTERFACE="s_axi"/><MEMRANGE INSTANCE="dma_0" BASEVALUE="0x40400000" HIGHVALUE="0x4040FFFF" '
        'SLAVEBUSINTERFACE="S_AXI_LITE"/>'
    )
    return f"""<EDKSYSTEM><MODULES>
<MODULE FULLNAME="/core_0" INSTANCE="core_0" MODTYPE="board" VLNV="insitu:insitu:core:1.0">
<PORTS><PORT NAME="clk" SIGIS="clk"/><PORT NAME="aresetn" SIGIS="rst" POLARITY="ACTIVE_LOW"/></PORTS>
<BUSINTERFACES>{"".join(buses)}</BUSINTERFACES></MODULE>
<MODULE FULLNAME="/dma_0" INSTANCE="dma_0" MODTYPE="axi_dma" VLNV="xilinx.com:ip:axi_dma:7.1"><BUSINTERFACES>
<BUSINTERFACE BUSNAME="to_core" NAME="M_AXIS_MM2S" TYPE="INITIATOR" {stream}/>
<BUSINTERFACE BUSNAME="from_core" NAME="S_AXIS_S2MM" TYPE="TARGET" {stream}/></BUSINTERFACES></MODULE>
<MODULE FULLNAME="/ps_0" INSTANCE="ps_0" MODTYPE="processing_system7" VLNV="xilinx.com:ip:processing_system7:5.5">
<MEMORYMAP>{memory}</MEMORYMAP></MODULE>
</MODULES></EDKSYSTEM>
"""


def test_judges(tmp_path: Path) -> None:
    """One simulation for both: the driver over the `pynq` backend, then registers, beats and resets with random stalls
    on every channel."""
    (tmp_path / "insitu.hwh").write_text(handoff())
    run(SCRIPT, str(tmp_path), "tests.fpga.axi_bench", "tests.fpga.pynq_bench")
