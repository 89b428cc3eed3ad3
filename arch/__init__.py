"""The accelerator described once: number formats, core parameters, instructions, registers, memory layout, latencies
and the program container. Pure Python and numpy. Everybody reads this room; it reads nobody."""
