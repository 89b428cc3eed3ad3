"""An independent reference of the accelerator: docs/arithmetic.md once more, in plain Python integers and plain loops.

It borrows from arch/ what a word means (instructions, layout names, core parameters) and none of its arithmetic, so an
error made there is not repeated here. `machine` executes, `strategies` and `vector_strategies` draw cases for
Hypothesis, `compare` explains differences. Tests use it; nothing else does.
"""
