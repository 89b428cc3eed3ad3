"""Every backend through the driver's suite."""

from __future__ import annotations

import pytest

from tests.host.device_suite import BACKENDS, DriverSuite


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestDriver(DriverSuite):
    """The suite on each of BACKENDS."""
