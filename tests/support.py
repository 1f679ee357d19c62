"""Small things that tests of servers and processes share."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from langchain_core.documents import Document
    from langchain_core.runnables import Runnable

T = TypeVar("T")


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until(condition: Callable[[], T], what: str, timeout: float = 60) -> T:
    """Ask until something true comes, which is returned; `what` names it where it doesn't."""
    give_up = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > give_up:
            msg = f"waited {timeout} s for {what}"
            raise AssertionError(msg)
        time.sleep(0.02)
    return found


def ids(documents: Iterable[Document]) -> list[str | None]:
    return [document.id for document in documents]


def texts(documents: Iterable[Document]) -> list[str]:
    return [document.page_content for document in documents]


def every_way(runnable: Runnable, given: Any, config: Any = None, **keywords: Any) -> list[Any]:
    """What `invoke`, `batch`, `ainvoke` and `abatch` give for one input; an error as itself."""

    async def both() -> list[Any]:
        one = runnable.ainvoke(given, config, **keywords)
        batch = runnable.abatch([given], config, return_exceptions=True, **keywords)
        return [*await asyncio.gather(one, return_exceptions=True), *await batch]

    try:
        first: Any = runnable.invoke(given, config, **keywords)
    except Exception as error:  # noqa: BLE001  # an outcome
        first = error
    batch = runnable.batch([given], config, return_exceptions=True, **keywords)
    return [first, *batch, *asyncio.run(both())]


def fails(
    error: type[Exception], message: str, runnable: Runnable, given: Any, **keywords: Any
) -> None:
    for outcome in every_way(runnable, given, **keywords):
        with pytest.raises(error, match=message):
            raise outcome
