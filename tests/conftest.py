"""What all tests share: Hypothesis draws the same cases everywhere, however slow the machine is; who runs what."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

# Tests run beside each other: each has one thread, and says so before numba is loaded.
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
# Compiling a core takes longer than all that the tests run on it.
os.environ.setdefault("INSITU_RTL_OPTIMIZE", "-Og")

settings.register_profile(
    "insitu", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("insitu")

#: How a test's id names the compiled core that it runs on.
_CORE = re.compile(
    r"[\[:](?P<swept>n\d+(-[a-z]+)?)[-:\]]|(?P<tiny>\[rtl\]|test_verify\.py|test_learn_device\.py)"
    r"|(?P<waves>test_waves\.py)|(?P<loopback>test_rtl_engine\.py)"
)


class ByCore(LoadScopeScheduling):
    """Tests of one compiled core go to one process, so that none waits while another compiles it; all others are
    handed out one by one. (xdist's `loadgroup` loses its marks under pytest 9.)"""

    def _split_scope(self, nodeid: str) -> str:
        found = _CORE.search(nodeid)
        if not found:
            return nodeid
        return found["swept"] or str(found.lastgroup)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByCore:
    return ByCore(config, log)
