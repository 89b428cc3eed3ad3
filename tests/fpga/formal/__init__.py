"""Proofs by SymbiYosys: contracts as assertions around a block, for every input there is."""
