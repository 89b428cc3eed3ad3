"""The core in Amaranth: what `arch/` describes, as hardware.

One unit a file; every unit states its latency, and `core.Core` joins them. The numbers are those of docs/arithmetic.md
bit for bit, the cycles those of arch/timing.py. Reads `arch/` only.
"""
