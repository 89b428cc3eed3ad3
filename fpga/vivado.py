"""Tcl for Vivado: packaging the core as an IP, and a Zynq block design with its DMA."""

from __future__ import annotations

from insitu.arch.params import CoreParams
from insitu.arch.registers import WINDOW

#: The IP's name in a block design.
VLNV = "insitu:insitu:core:1.0"
#: Instances in the block design: what an overlay calls them.
CORE_CELL, DMA_CELL = "core_0", "dma_0"


def package_tcl(top: str) -> str:
    """Package `top`.v as an IP in ./ip. Run: vivado -mode batch -source package_ip.tcl."""
    vendor, library, name, version = VLNV.split(":")
    return f"""\
# Packages the core as the IP {VLNV} in ./ip. Run: vivado -mode batch -source package_ip.tcl [-tclargs PART]
set here [file dirname [file normalize [info script]]]
set part [expr {{$argc > 0 ? [lindex $argv 0] : "xc7z020clg400-1"}}]
create_project -in_memory -part $part
add_files [file join $here .. {top}.v]
set_property top {top} [current_fileset]
update_compile_order -fileset sources_1
ipx::package_project -root_dir [file join $here ip] -vendor {vendor} -library {library} -taxonomy /UserIP \\
    -import_files -set_current true -force
set ip [ipx::current_core]
set_property name {name} $ip
set_property version {version} $ip
set_property display_name "insitu training core" $ip
foreach bus {{s_axi s_axis m_axis}} {{
    ipx::associate_bus_interfaces -busif $bus -clock aclk $ip
}}
set reset [ipx::get_bus_interfaces aresetn -of_objects $ip]
set_property value ACTIVE_LOW [ipx::add_bus_parameter POLARITY $reset]
set map [ipx::get_memory_maps s_axi -of_objects $ip]
set_property range {max(WINDOW, 4096)} [ipx::get_address_blocks -of_objects $map]
ipx::create_xgui_files $ip
ipx::update_checksums $ip
ipx::check_integrity $ip
ipx::save_core $ip
"""


def block_design_tcl(params: CoreParams) -> str:
    """A Zynq-7000 block design: processing system, DMA with both channels, the core. After package_tcl."""
    width = params.stream_bits
    return f"""\
# A Zynq-7000 design around the core, through to the bitstream. Run after package_ip.tcl:
#   vivado -mode batch -source block_design.tcl [-tclargs PART [BOARD_PART]]
# An overlay finds the core as {CORE_CELL} and its DMA as {DMA_CELL}.
set here [file dirname [file normalize [info script]]]
set part [expr {{$argc > 0 ? [lindex $argv 0] : "xc7z020clg400-1"}}]
create_project insitu_zynq [file join $here project] -part $part -force
if {{$argc > 1}} {{ set_property board_part [lindex $argv 1] [current_project] }}
set_property ip_repo_paths [file join $here ip] [current_project]
update_ip_catalog
create_bd_design system

set ps [create_bd_cell -type ip -vlnv xilinx.com:ip:processing_system7 ps_0]
apply_bd_automation -rule xilinx.com:bd_rule:processing_system7 \\
    -config {{make_external "FIXED_IO, DDR" Master "Disable" Slave "Disable"}} $ps
set_property -dict [list CONFIG.PCW_USE_S_AXI_HP0 1 CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ 100] $ps
set core [create_bd_cell -type ip -vlnv {VLNV} {CORE_CELL}]
set dma [create_bd_cell -type ip -vlnv xilinx.com:ip:axi_dma {DMA_CELL}]
set_property -dict [list \\
    CONFIG.c_include_sg 0 \\
    CONFIG.c_sg_length_width 26 \\
    CONFIG.c_m_axi_mm2s_data_width {max(32, width)} \\
    CONFIG.c_m_axis_mm2s_tdata_width {width} \\
    CONFIG.c_m_axi_s2mm_data_width {max(32, width)} \\
] $dma

connect_bd_intf_net [get_bd_intf_pins {DMA_CELL}/M_AXIS_MM2S] [get_bd_intf_pins {CORE_CELL}/s_axis]
connect_bd_intf_net [get_bd_intf_pins {CORE_CELL}/m_axis] [get_bd_intf_pins {DMA_CELL}/S_AXIS_S2MM]
foreach slave {{{CORE_CELL}/s_axi {DMA_CELL}/S_AXI_LITE}} {{
    apply_bd_automation -rule xilinx.com:bd_rule:axi4 \\
        -config {{Master /ps_0/M_AXI_GP0 Clk Auto}} [get_bd_intf_pins $slave]
}}
foreach master {{{DMA_CELL}/M_AXI_MM2S {DMA_CELL}/M_AXI_S2MM}} {{
    apply_bd_automation -rule xilinx.com:bd_rule:axi4 \\
        -config [list Master /$master Slave /ps_0/S_AXI_HP0 Clk Auto] [get_bd_intf_pins ps_0/S_AXI_HP0]
}}
assign_bd_address
validate_bd_design
save_bd_design

make_wrapper -files [get_files system.bd] -top -import
update_compile_order -fileset sources_1
launch_runs impl_1 -to_step write_bitstream
wait_on_run impl_1
set run [file join $here project insitu_zynq.runs impl_1]
file copy -force [file join $run system_wrapper.bit] [file join $here insitu.bit]
set handoff [glob [file join $here project insitu_zynq.gen sources_1 bd system hw_handoff *.hwh]]
file copy -force [lindex $handoff 0] [file join $here insitu.hwh]
"""
