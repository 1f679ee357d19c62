"""What actors take of a Ray, and how it is kept quiet."""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Share:
    """What each of some actors takes; None where the machine decides."""

    workers: int
    cpus: float | None
    gpus: float | None

    def of_this_ray(self) -> tuple[float, float]:
        """Return CPUs and GPUs of an actor on the connected Ray.

        Raises:
            ValueError: A single machine has fewer than all of them take.
        """
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray left it so
        if len(nodes) > 1:
            return 1 if self.cpus is None else self.cpus, self.gpus or 0
        cpus, gpus = (nodes[0].get(kind, 0.0) for kind in ("CPU", "GPU"))
        for name, wanted, there in (("CPUs", self.cpus, cpus), ("GPUs", self.gpus, gpus)):
            if wanted is not None and wanted * self.workers > there:
                msg = (
                    f"{self.workers} workers of {wanted:g} {name} need {wanted * self.workers:g}, "
                    f"this machine's Ray has {there:g}: take fewer workers or less for each"
                )
                raise ValueError(msg)
        return (
            _whole(cpus / self.workers) if self.cpus is None else self.cpus,
            min(1.0, _whole(gpus / self.workers)) if self.gpus is None else self.gpus,
        )


@contextmanager
def quiet_data() -> Iterator[None]:
    """Keep Ray Data's progress bars and logs to itself for a while."""
    from ray.data import DataContext

    context = DataContext.get_current()
    logger = logging.getLogger("ray.data")
    before = context.enable_progress_bars, logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars = before[0]
        logger.setLevel(before[1])


def _whole(number: float) -> float:
    """Cut to what Ray takes: whole numbers above 1, else four decimals."""
    return float(int(number)) if number > 1 else math.floor(number * 10_000) / 10_000
