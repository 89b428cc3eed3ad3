"""Suites that other modules run: their assertions are to explain themselves like any test's."""

import pytest

pytest.register_assert_rewrite("tests.host.device_suite")
