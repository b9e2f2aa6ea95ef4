"""Whatever a handler did becomes one frame; what is for the log goes to the report."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from anyio_bus import RemoteError
from anyio_bus._sansio.answers import error_frame, result_frame
from anyio_bus._sansio.binding import InvalidParamsError

LIMIT = 10_000


class Reports(list[str]):
    def __call__(self, text: str, exc: BaseException) -> None:
        self.append(f"{text}: {type(exc).__name__}")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def result(value: object, limit_bytes: int = LIMIT) -> tuple[Any, Reports]:
    reports = Reports()
    frame = result_frame(7, "m", value, limit_bytes, reports)
    assert frame.endswith(b"\n")
    return msgspec.json.decode(frame), reports


def error(exc: BaseException, limit_bytes: int = LIMIT) -> tuple[Any, Reports]:
    reports = Reports()
    frame = error_frame(7, "m", exc, limit_bytes, reports)
    answer = msgspec.json.decode(frame)
    assert answer["id"] == 7
    return answer["error"], reports


def test_a_result_is_the_answer() -> None:
    assert result([1]) == ({"jsonrpc": "2.0", "id": 7, "result": [1]}, [])


def test_a_result_that_cannot_be_encoded_is_an_internal_error() -> None:
    answer, reports = result({1, object()})
    assert answer["error"]["code"] == -32603
    assert "the result of 'm' cannot be encoded" in answer["error"]["message"]
    assert reports == ["the result of 'm' cannot be encoded: InvalidArgumentError"]
    answer, _ = result(float("nan"))
    assert "NaN" in answer["error"]["message"]


def test_a_result_whose_own_code_fails_is_an_internal_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_key: object, _result: object) -> bytes:
        raise Mute

    monkeypatch.setattr("anyio_bus._sansio.answers.encode_result", fail)
    answer, reports = result(1)
    assert "(no text)" in answer["error"]["message"]
    assert reports == ["the result of 'm' cannot be encoded: Mute"]


def test_an_answer_over_the_limit_says_so_instead() -> None:
    answer, reports = result("x" * LIMIT)
    assert answer["error"]["code"] == -32054
    assert "max_frame_bytes=10000" in answer["error"]["message"]
    assert not reports


def test_a_remote_error_is_passed_on_as_it_is() -> None:
    expected = {"code": 5, "message": "no", "data": {"a": 1}}
    assert error(RemoteError(5, "no", {"a": 1})) == (expected, [])
    assert error(RemoteError(5, "no")) == ({"code": 5, "message": "no"}, [])


def test_an_error_alone_in_a_group_is_that_error() -> None:
    inner = ExceptionGroup("inner", [RemoteError(5, "no")])
    assert error(ExceptionGroup("outer", [inner]))[0]["code"] == 5


@pytest.mark.parametrize(
    "exc",
    [
        RemoteError("5", "code is text"),  # type: ignore[arg-type]
        RemoteError(5, b"text is bytes"),  # type: ignore[arg-type]
        RemoteError(5, "data cannot be encoded", object()),
        RemoteError(5, "too large", "x" * LIMIT),
    ],
)
def test_a_remote_error_that_cannot_be_sent_is_an_internal_error(exc: RemoteError) -> None:
    answer, reports = error(exc)
    assert answer["code"] == -32603
    assert reports == ["the handler of 'm' raised: RemoteError"]


def test_params_that_do_not_fit_are_no_matter_for_the_log() -> None:
    answer, reports = error(InvalidParamsError("at `$.a`"))
    assert answer == {"code": -32602, "message": "invalid params: at `$.a`"}
    assert not reports


@pytest.mark.parametrize(
    ("exc", "message"),
    [
        (ValueError("x is wrong"), "ValueError: x is wrong"),
        (SystemExit(3), "SystemExit: 3"),
        (Mute(), "Mute: (no text)"),
    ],
)
def test_anything_else_is_an_internal_error_without_a_traceback(
    exc: BaseException, message: str
) -> None:
    answer, reports = error(exc)
    assert answer == {"code": -32603, "message": message}
    assert reports == [f"the handler of 'm' raised: {type(exc).__name__}"]


def test_a_long_text_is_cut() -> None:
    answer, _ = error(ValueError("x" * 100_000))
    assert len(answer["message"]) == 4096
