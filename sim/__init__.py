"""Everything that runs the core without a board: the numba emulator (values), the cycle model, the timeline."""
