"""What a worker is told of its methods and its bounds, before it serves."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from anyio_bus import InvalidArgumentError
from anyio_bus.worker import Context, Worker


def add(a: int, b: int = 10) -> int:
    return a + b


def test_an_annotation_may_name_a_class_of_the_surrounding_function() -> None:
    class Local(msgspec.Struct):
        a: int

    worker = Worker()

    @worker.method("m")
    def handler(params: Local) -> int:
        return params.a


def test_what_cannot_be_served_is_refused_at_registration() -> None:
    with pytest.raises(InvalidArgumentError, match=r"method .name.*not callable"):
        Worker().method("name")(5)  # type: ignore[type-var]


def test_a_name_has_one_handler() -> None:
    worker = Worker()
    worker.method("m")(add)
    with pytest.raises(InvalidArgumentError, match="method 'm' has a handler already"):
        worker.method("m")(add)
    worker.notification("m")(add)  # another table


def test_a_decorator_without_parentheses_is_refused() -> None:
    worker: Any = Worker()
    with pytest.raises(InvalidArgumentError, match=r'^method\(\) needs .* @worker.method\("add"\)'):
        worker.method(add)
    with pytest.raises(InvalidArgumentError, match=r'@worker.notification\("add"\)'):
        worker.notification(add)
    with pytest.raises(InvalidArgumentError, match=r'@worker.method\("name"\), not 3'):
        worker.method(3)


@pytest.mark.parametrize(
    "name", ["$/cancelRequest", "notifications/cancelled", "$/cancel_request", "bus/credit"]
)
def test_control_notifications_are_the_worker_s_own(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="the worker's own"):
        Worker().notification(name)


def test_inline_is_for_plain_functions() -> None:
    async def handler() -> None: ...

    with pytest.raises(InvalidArgumentError, match="inline=True is for plain functions"):
        Worker().method("m", inline=True)(handler)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"max_concurrency": True}, "max_concurrency"),
        ({"max_queued": -1}, "max_queued"),
        ({"max_frame_bytes": 0}, "max_frame_bytes"),
        ({"drain_s": -1}, "drain_s"),
        ({"drain_s": float("nan")}, "drain_s"),
        ({"cancel": "loud"}, "cancel"),
    ],
)
def test_a_wrong_bound_is_refused_by_its_name(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"Worker.{field} must be") as caught:
        Worker(**options)
    assert caught.value.field == field


def test_the_decorator_returns_the_function() -> None:
    assert Worker().method("m")(add) is add


def test_a_context_is_not_made_by_hand() -> None:
    with pytest.raises(TypeError, match="made by the worker"):
        Context()
