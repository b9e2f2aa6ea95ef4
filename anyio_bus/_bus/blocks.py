"""Own what is said to whoever uses a block of ``async with`` as if it were what it opens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import wraps
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("entered_as",)

P = ParamSpec("P")
T = TypeVar("T")


class _Block(AbstractAsyncContextManager[T], Generic[T]):
    """A block, or a decorator; used in any other way than ``async with``, it says how."""

    def __init__(self, block: AbstractAsyncContextManager[T], usage: str) -> None:
        self._block = block
        self._usage = usage

    async def __aenter__(self) -> T:
        return await self._block.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return await self._block.__aexit__(kind, exc, trace)  # what it wraps has that  # noqa: ASYNC102

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate a function: each call of it opens a block of its own."""
        decorated: Callable[..., Any] = self._block(function)  # type: ignore[operator]
        return decorated

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # asked for by protocols, as by copy before there is a usage
            raise AttributeError(name, name=name, obj=self)
        msg = f"use `{self._usage}`; it is what that gives that may have {name!r}"
        raise AttributeError(msg, name=name, obj=self)

    def _refuse(self, *_: object) -> NoReturn:
        msg = f"use `{self._usage}`"
        raise TypeError(msg)

    __await__ = __aiter__ = __iter__ = __enter__ = __exit__ = _refuse


def entered_as(
    usage: str,
) -> Callable[
    [Callable[P, AbstractAsyncContextManager[T]]], Callable[P, AbstractAsyncContextManager[T]]
]:
    """Have the blocks that a function makes say how they are used.

    Args:
        usage: The line that opens one.
    """

    def decorate(
        make: Callable[P, AbstractAsyncContextManager[T]],
    ) -> Callable[P, AbstractAsyncContextManager[T]]:
        @wraps(make)
        def made(*args: P.args, **kwargs: P.kwargs) -> AbstractAsyncContextManager[T]:
            return _Block(make(*args, **kwargs), usage)

        return made

    return decorate
