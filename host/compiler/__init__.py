"""From a torch module to a program: trace (torch.fx), calibrate exponents, plan memories, emit instructions."""

from insitu.host.compiler.compile import Compiled, compile_module

__all__ = ["Compiled", "compile_module"]
