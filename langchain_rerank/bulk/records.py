"""What a bulk job tells of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class BulkProgress:
    """Where a running job stands."""

    blocks: int
    """Blocks of the job."""
    finished: int
    """Blocks finished, in earlier runs too."""
    pairs: int
    """Pairs scored in this run."""
    pairs_per_s: float


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What a run of a job did; the job is finished."""

    output: Path
    """Folder of the parts, in the order of the input by name."""
    blocks: int
    """Blocks of the job."""
    skipped: int
    """Blocks that were finished before this run."""
    rows: int
    """Rows scored in this run."""
    pairs: int
    """Pairs scored in this run."""
    seconds: float
    """From the start of this run's first block to the end of its last, models loaded."""

    @property
    def pairs_per_s(self) -> float:
        """Pairs scored a second in this run."""
        return self.pairs / self.seconds if self.seconds else 0.0
