"""A Ray to run on: the one that is connected, the user's cluster, or one of our own."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from langchain_rerank.cores import available_cores

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}


@contextmanager
def connected(environment: Mapping[str, str] | None = None) -> Iterator[bool]:
    """Connect to Ray for a while; one that was connected before is used and left alone.

    Args:
        environment: Variables of the processes of a Ray that is started here.

    Yields:
        Whether it was started here, for this alone.
    """
    import ray

    if ray.is_initialized():
        yield False
        return
    wanted = {**_QUIET, **(environment or {})}
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    own = not os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if own:
        options |= {
            "address": "local",  # never one that runs on this machine for something else
            "num_cpus": available_cores(),
            "object_store_memory": 128 * 2**20,  # about its least, as what travels is small
            "include_dashboard": False,
        }
    try:
        ray.init(**options)
        yield own
    finally:
        ray.shutdown()
        for name in added:
            os.environ.pop(name, None)
