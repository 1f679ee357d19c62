"""A Ray to run on: the one that is connected, the user's cluster, or one of our own."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from langchain_rerank.cores import available_cores

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# What travels is small, so Ray's own store of objects may stay at about its least.
_OBJECT_STORE_BYTES = 128 * 2**20
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
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update({name: value for name, value in wanted.items() if before[name] is None})
    own = not os.environ.get("RAY_ADDRESS")
    try:
        if not own:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                # Never one that happens to run on this machine for something else.
                address="local",
                num_cpus=available_cores(),
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        yield own
    finally:
        ray.shutdown()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
