"""What all tests share: Hypothesis draws the same cases everywhere, however slow the machine is."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Tests run beside each other: each has one thread, and says so before numba is loaded.
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
# Compiling a core takes longer than all that the tests run on it.
os.environ.setdefault("INSITU_RTL_OPTIMIZE", "-Og")

settings.register_profile(
    "insitu", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("insitu")
