"""Suites that other modules run: their assertions are to explain themselves like any test's."""

import pytest

pytest.register_assert_rewrite(*(f"tests.host.device_{part}" for part in ("suite", "training", "faults")))
