"""Both kernels do the same with random scenarios, as far as a client can see."""

from __future__ import annotations

import functools
import os

import anyio
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from anyio_bus._backends.native import lib
from tests.conftest import Backend
from tests.differential.scenarios import Scenario, play, scenarios

pytestmark = pytest.mark.skipif(lib is None, reason="NOT TESTED: the C kernel is not built here")

MANY = int(os.environ.get("ANYIO_BUS_DIFFERENTIAL_EXAMPLES", "0"))  # for a long run by hand
few = settings(
    max_examples=MANY or 12,
    derandomize=not MANY,  # a run that many wait for finds what it found before
    deadline=None,
    print_blob=True,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, *([Phase.shrink] if MANY else [])],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.timeout(120 + 10 * MANY)
def test_any_scenario_looks_the_same(anyio_backend: Backend) -> None:
    name, options = anyio_backend

    @few
    @given(scenario=scenarios)
    def check(scenario: Scenario) -> None:
        anyio.run(functools.partial(play, scenario), backend=name, backend_options=options)

    check()
