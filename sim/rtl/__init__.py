"""The core's own RTL, run in this process: compiled through yosys and Verilator, or on Amaranth's simulator.

Both are driven through the AXI ports of fpga/top.py, as hardware would be, in bulk calls.
"""
