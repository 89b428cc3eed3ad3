"""The generated Verilog in Icarus Verilog: another reading of the language, the same bits and cycles."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from insitu.arch.params import CoreParams
from insitu.arch.registers import REGISTERS
from insitu.fpga.axi_lite import ADDRESS_BITS
from insitu.fpga.generate import generate
from tests.fpga.training_run import ENTRIES, training_run
from tests.host import tiny

CORE: CoreParams = tiny.CORE
pytestmark = pytest.mark.skipif(
    shutil.which("iverilog") is None or shutil.which("vvp") is None,
    reason="no Icarus Verilog on the PATH (Debian and Ubuntu: apt install iverilog)",
)
#: Cycles after which the simulation hangs.
LIMIT = 60_000
BENCH = """
`timescale 1ns/1ps
module bench;
  localparam SENT = {sent}, BITS = {bits}, ADDRESS = {address};
  reg aclk = 0, aresetn = 0;
  reg [ADDRESS-1:0] awaddr = 0, araddr = 0;
  reg awvalid = 0, wvalid = 0, arvalid = 0;
  reg [31:0] wdata = 0;
  wire awready, wready, bvalid, arready, rvalid;
  wire [31:0] rdata;
  reg [BITS-1:0] beats [0:SENT-1];
  integer at = 0, came = 0, file;
  reg streaming = 0;
  wire [BITS-1:0] out;
  wire tready, out_valid, out_last;
  insitu core (
    .aclk(aclk), .aresetn(aresetn),
    .s_axi_awaddr(awaddr), .s_axi_awprot(3'd0), .s_axi_awvalid(awvalid), .s_axi_awready(awready),
    .s_axi_wdata(wdata), .s_axi_wstrb(4'hf), .s_axi_wvalid(wvalid), .s_axi_wready(wready),
    .s_axi_bvalid(bvalid), .s_axi_bready(1'b1), .s_axi_bresp(),
    .s_axi_araddr(araddr), .s_axi_arprot(3'd0), .s_axi_arvalid(arvalid), .s_axi_arready(arready),
    .s_axi_rdata(rdata), .s_axi_rresp(), .s_axi_rvalid(rvalid), .s_axi_rready(1'b1),
    .s_axis_tdata(beats[at]), .s_axis_tkeep({{BITS/8{{1'b1}}}}), .s_axis_tlast(1'b0),
    .s_axis_tvalid(streaming & (at < SENT)), .s_axis_tready(tready),
    .m_axis_tdata(out), .m_axis_tkeep(), .m_axis_tlast(out_last), .m_axis_tvalid(out_valid), .m_axis_tready(1'b1)
  );
  always #5 aclk = ~aclk;
  always @(posedge aclk) begin
    if (streaming & (at < SENT) & tready) at <= at + 1;
    if (out_valid) begin
      $fwrite(file, "%h\\n", out);
      came <= came + 1;
    end
  end
  task write(input [ADDRESS-1:0] address, input [31:0] value); begin
    @(negedge aclk); awaddr = address; wdata = value; awvalid = 1; wvalid = 1;
    @(negedge aclk); awvalid = 0; wvalid = 0;
    while (!bvalid) @(negedge aclk);
  end endtask
  task read(input [ADDRESS-1:0] address); begin
    @(negedge aclk); araddr = address; arvalid = 1;
    @(negedge aclk); arvalid = 0;
    while (!rvalid) @(negedge aclk);
  end endtask
  task idle; begin
    read({status}); while (rdata[0]) read({status});
  end endtask
  initial begin
    $readmemh("beats.hex", beats);
    file = $fopen("out.hex", "w");
    repeat (4) @(negedge aclk);
    aresetn = 1;
{script}
    read({cycles}); $display("CYCLES %0d", rdata);
    read({stalls}); $display("STALLS %0d", rdata);
    read({status}); $display("STATUS %0d", rdata);
    $fclose(file);
    $finish;
  end
  initial begin #(10 * {limit}); $display("HANGS at beat %0d, %0d out", at, came); $finish; end
endmodule
"""


def test_a_training_step_runs_to_the_same_bits(tmp_path: Path) -> None:
    run = training_run(tiny.compiled(), *tiny.samples(tiny.BATCH, seed=6))
    program = run.program
    words = [int(w) for w in program.words.reshape(-1)]
    every = [w.to_bytes(CORE.stream_bits // 8, "little") for w in words] + [beat.tobytes() for beat in run.sent]
    (tmp_path / "beats.hex").write_text("\n".join(beat[::-1].hex() for beat in every) + "\n")
    control = REGISTERS["CONTROL"]

    def write(name: str, value: int, index: int = 0) -> str:
        return f"    write('d{REGISTERS[name].offset + 4 * index}, 32'd{value});"

    script = [write("SCALE", (e & 0xFF) << 8 | (e & 0xFF), k) for k, e in enumerate(program.scales)]
    script += [write("COUNT", len(program.words)), write("CONTROL", control.fields["load_program"].put(1))]
    script += ["    streaming = 1;", "    idle;"]
    for entry in ENTRIES:
        script += [
            write("ENTRY", program.entries[entry]),
            write("CONTROL", control.fields["start"].put(1)),
            "    idle;",
        ]
    bench = BENCH.format(
        sent=len(every),
        bits=CORE.stream_bits,
        address=ADDRESS_BITS,
        limit=LIMIT,
        script="\n".join(script),
        **{
            key: f"'d{REGISTERS[name].offset}"
            for key, name in {"status": "STATUS", "cycles": "CYCLES_LO", "stalls": "STALL_IN"}.items()
        },
    )
    (tmp_path / "bench.v").write_text(bench)
    generate(CORE, tmp_path / "hdl")
    how: Any = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False}
    command = ["iverilog", "-g2005-sv", "-o", "bench.vvp", "-s", "bench", "bench.v", str(tmp_path / "hdl" / "insitu.v")]
    built = subprocess.run(command, **how)
    assert built.returncode == 0, built.stderr
    done = subprocess.run(["vvp", "-n", "bench.vvp"], **how)
    told = dict(line.split() for line in done.stdout.splitlines() if line.startswith(("CYCLES", "STALLS", "STATUS")))
    assert set(told) == {"CYCLES", "STALLS", "STATUS"}, done.stdout + done.stderr
    assert REGISTERS["STATUS"].fields["error"].of(int(told["STATUS"])) == 0
    raw = [bytes.fromhex(line)[::-1] for line in (tmp_path / "out.hex").read_text().split()]
    came = np.frombuffer(b"".join(raw), dtype=run.expected.dtype).reshape(-1, CORE.n)
    np.testing.assert_array_equal(came, run.expected)
    assert int(told["CYCLES"]) - int(told["STALLS"]) == run.cycles
