"""From a torch module to a program: trace (torch.fx), calibrate exponents, plan memories, emit instructions.

`rate` needs no torch: a device that only runs programs imports that alone.
"""
