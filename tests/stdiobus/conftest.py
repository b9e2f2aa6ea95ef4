"""The kernels that the suite runs over: what "auto" becomes; Python's on each loop, others on one."""

from __future__ import annotations

import pytest

from anyio_bus._backends.native import lib
from anyio_bus._daemon import find_daemon

KERNELS = ("python", "native", "subprocess")


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have "auto" be this one; a test that is for another one names it."""
    name: str = request.param
    if name == "native" and lib is None:
        pytest.skip("no extension")
    if name == "subprocess":
        try:
            find_daemon()
        except FileNotFoundError as exc:
            pytest.skip(f"*** NOT TESTED: {exc} ***")
    monkeypatch.setenv("ANYIO_BUS_BACKEND", name)
    return name


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run those that are no Python on trio alone: the loop is not what differs."""
    left_out = [item for item in items if _is_left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not _is_left_out(item)]


def _is_left_out(item: pytest.Item) -> bool:
    if "tests/stdiobus/" not in item.nodeid or not isinstance(item, pytest.Function):
        return False
    params = getattr(getattr(item, "callspec", None), "params", {})
    loop, _ = params.get("anyio_backend", ("trio", {}))
    return loop != "trio" and params.get("kernel", "python") != "python"
