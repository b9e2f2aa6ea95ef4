"""The table from errors to codes agrees with the library's own from codes to errors."""

from __future__ import annotations

import json

import pytest
from msgspec import Raw

from anyio_bus import RemoteProtocolError, RequestTimeoutError
from anyio_bus._errors import Failure, KernelCode, error_from_failure
from anyio_bus.cli._lines import error_of

NOT_OF_A_REQUEST = {
    "PARSE_ERROR",
    "METHOD_NOT_FOUND",
    "INVALID_PARAMS",
    "INTERNAL_ERROR",
}
CODES = {name: code for name, code in vars(KernelCode).items() if name.isupper()}


@pytest.mark.parametrize("name", sorted(CODES.keys() - NOT_OF_A_REQUEST))
def test_each_code_of_the_kernel_comes_out_as_it_went_in(name: str) -> None:
    failure = Failure(code=CODES[name], message="why", pool="p", sent=False)
    answer = json.loads(error_of(Raw(b'"7"'), error_from_failure(failure)))
    assert answer["id"] == "7"
    assert answer["error"]["code"] == CODES[name]
    assert answer["error"]["message"] == "why"
    assert answer["error"]["data"]["source"] == "anyio-bus"


def test_a_failed_start_says_that_there_is_no_worker_and_why() -> None:
    failure = Failure(code=KernelCode.NO_WORKER, message="why", phase="spawn", errno=2, sent=False)
    error = json.loads(error_of(Raw(b"1"), error_from_failure(failure)))["error"]
    assert error["code"] == KernelCode.NO_WORKER
    assert error["data"] == {
        "source": "anyio-bus",
        "errno": 2,
        "phase": "spawn",
        "permanent": False,
        "sent": False,
    }


def test_a_timeout_is_a_cancelled_request_and_says_so() -> None:
    exc = RequestTimeoutError("late", method="m", timeout_s=1.0, sent=True)
    error = json.loads(error_of(Raw(b"1"), exc))["error"]
    assert (error["code"], error["data"]["reason"]) == (KernelCode.CANCELLED, "timeout")


def test_what_has_no_code_is_an_internal_error() -> None:
    exc = RemoteProtocolError("odd", line_prefix=b"\xff")
    error = json.loads(error_of(Raw(b"1"), exc))["error"]
    assert error["code"] == KernelCode.INTERNAL_ERROR
