"""Suites that other modules run: their assertions are to explain themselves like any test's."""

import pytest

pytest.register_assert_rewrite(*(f"tests.host.device_{part}" for part in ("suite", "training", "faults")))

#: Of the driver's suites over Amaranth's simulator, what `make test` runs: an opening, registers, weights, inference,
#: training, a fault of each kind. `make verify` runs all.
QUICK = {
    "test_registers_by_name",
    "test_weights_round_trip",
    "test_integers_are_taken_as_they_are",
    "test_train_equals_the_emulator",
    "test_gradient_of_the_host",
    "test_abort",
    "test_starved_load",
    "test_single_step",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        case = getattr(item, "callspec", None)
        if case is None or case.params.get("backend") != "pysim":
            continue
        if getattr(item, "originalname", "") not in QUICK:
            item.add_marker(pytest.mark.slow)
