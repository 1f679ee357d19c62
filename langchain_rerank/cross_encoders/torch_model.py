"""A checkpoint's weights in PyTorch, and the loop that runs them."""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from langchain_rerank.cross_encoders import batching, heads
from langchain_rerank.cross_encoders.checkpoint import load_error, require
from langchain_rerank.cross_encoders.loaded import LoadedModel, loading, shared
from langchain_rerank.cross_encoders.processes import PerProcess, cancelled, check_cancelled
from langchain_rerank.cross_encoders.torch import best_device, torch_dtype
from langchain_rerank.cross_encoders.torch_packing import pack_linear_layers
from langchain_rerank.errors import ScoringError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from langchain_rerank.cross_encoders.checkpoint import Checkpoint
    from langchain_rerank.cross_encoders.tokenization import Windows
    from langchain_rerank.cross_encoders.torch import TorchCrossEncoder

logger = logging.getLogger(__name__)

# Padded tokens a batch. On a processor, batches that stay in its caches win over wide ones; a
# GPU wants enough rows to fill it, and 32k tokens of XLM-RoBERTa large stay under 8 GiB.
_BATCH_TOKENS = {"cpu": 512, "mps": 8192}
_BATCH_TOKENS_GPU = 32768
# On a processor oneDNN makes code for every size of input that it meets, and keeps it.
_WIDTH_MULTIPLE = {"cpu": 8}

_workers: PerProcess[dict[int, ThreadPoolExecutor]] = PerProcess(dict)


def default_batch_tokens(device: str) -> int:
    """Token budget of a batch for a torch device such as "cpu" or "cuda:1"."""
    return _BATCH_TOKENS.get(device.partition(":")[0], _BATCH_TOKENS_GPU)


class TorchModel(LoadedModel):
    """A checkpoint's weights on one device."""

    def __init__(self, settings: TorchCrossEncoder, checkpoint: Checkpoint, device: str) -> None:
        """Load weights and tokenizer, refused if they don't fit together."""
        dtype = torch_dtype(settings.dtype, device)
        wanted = f"wants {', '.join(checkpoint.float32_layers)} in float32 (keep_in_fp32_modules)"
        right = not checkpoint.float32_layers or dtype == torch.float32
        require(right, checkpoint.folder, wanted, 'Use dtype="float32".')
        super().__init__(checkpoint, lambda: heads.load_tokenizer(checkpoint))
        with hidden_bars(show_progress=settings.show_progress):
            self._scorer = heads.build(checkpoint, self.tokenizer.get())
        self._scorer.to(device=device, dtype=dtype)
        if device == "cpu":
            pack_linear_layers(self._scorer)
        self._device = device
        self._process = os.getpid()
        self._held_tokens: int | None = None

    def logits(self, windows: Windows, settings: Any) -> npt.NDArray[np.float64]:
        """Score every window in batches that fit into memory; shape (windows,)."""
        with self.lock.get():
            return self._logits(windows, settings)

    def _logits(self, windows: Windows, settings: Any) -> npt.NDArray[np.float64]:
        if self._device != "cpu" and os.getpid() != self._process:
            msg = (
                f"a forked process can't use {self._device}, on which its parent has put the model;"
                " start processes by multiprocessing's 'spawn', or score with device=\"cpu\" there"
            )
            raise ScoringError(msg)
        features, prefix = windows.features, None
        if self._scorer.shares_prefixes:
            shared, features = batching.without_prefix(features)
            if shared:
                ids = torch.tensor([shared], device=self._device)
                (prefix,) = self._map(self._scorer.read_prefix, [ids])
        lengths = [len(row) for row in features["input_ids"]]
        budget = settings.batch_tokens or self._held_tokens or default_batch_tokens(self._device)
        if self._device == "cpu":
            # Few tokens are spread over all threads.
            budget = min(budget, max(-(-sum(lengths) // torch.get_num_threads()), 1))
        pad, multiple = self.tokenizer.get().pad_token_id, _WIDTH_MULTIPLE.get(self._device, 1)
        given_up, hide = cancelled.get(), not settings.show_progress

        def forward(batch: list[int]) -> torch.Tensor:
            check_cancelled(given_up)
            return self._forward(batching.pad_batch(features, batch, pad, multiple), prefix)

        while True:
            batches = batching.batches_by_length(lengths, budget)
            bar = tqdm(total=len(lengths), desc="Scoring", unit="pair", disable=hide)
            try:
                with bar:
                    outputs = []
                    for output in self._map(forward, batches):
                        outputs.append(output)
                        bar.update(len(output))
            except torch.OutOfMemoryError as error:
                budget = self._smaller_budget(lengths, batches[0], error)
                continue
            scores: npt.NDArray[np.float64] = np.empty(len(lengths))
            scores[np.concatenate(batches)] = torch.cat(outputs).double().cpu().numpy()
            return scores

    def _map(self, call: Callable[[Any], Any], inputs: Sequence[Any]) -> Iterator[Any]:
        """Call for one input after another; on a CPU for as many at once as PyTorch has threads.

        There each runs on one thread: those that share an operation wait on each other, for long
        where the cores are busy, and don't come along to a forked child.
        """
        cpu = self._device == "cpu"
        return (_pool(torch.get_num_threads()).map if cpu else map)(call, inputs)

    def _smaller_budget(
        self, lengths: Sequence[int], batch: list[int], error: torch.OutOfMemoryError
    ) -> int:
        """Halve the tokens of the longest batch, for this call and the next."""
        if len(batch) == 1:
            msg = (
                f"out of memory on {self._device} with a single pair of up to {max(lengths)} "
                "tokens; lower max_length, choose a smaller model or dtype, or free the device"
            )
            raise ScoringError(msg) from error
        self._held_tokens = max(lengths) * len(batch) // 2
        logger.warning("out of memory: batches now hold %d tokens", self._held_tokens)
        return self._held_tokens

    @torch.inference_mode()
    def _forward(self, padded: dict[str, npt.NDArray[np.int64]], prefix: Any) -> torch.Tensor:
        """Logits of one batch, shape (rows,), left on the device so that none waits for it."""
        # From pinned memory a copy to a GPU waits for nothing that the GPU still has to do.
        pinned = self._device.startswith("cuda")
        inputs = {}
        for name, rows in padded.items():
            source = torch.from_numpy(rows).pin_memory() if pinned else torch.from_numpy(rows)
            inputs[name] = source.to(self._device, non_blocking=pinned)
        logits: torch.Tensor = self._scorer(prefix, **inputs)
        return logits


def shared_model(settings: TorchCrossEncoder, checkpoint: Checkpoint) -> LoadedModel:
    """Return the weights of a checkpoint, loaded once for all that ask for the same."""
    device = settings.device or best_device()
    folder = checkpoint.folder.resolve()
    files = sorted((*folder.glob("*"), *folder.glob("*/*")))
    state = tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    settled = checkpoint.frame, checkpoint.trusted, device, torch_dtype(settings.dtype, device)
    try:
        return shared((folder, state, settled), lambda: TorchModel(settings, checkpoint, device))
    # transformers', safetensors' and the disk's own errors.
    except Exception as error:
        raise load_error(settings.model, f"on {device}: {error}") from error


@contextmanager
def hidden_bars(*, show_progress: bool) -> Iterator[None]:
    """Hide transformers' bar over the weights."""
    from transformers.utils import logging as transformers_logging

    hide = not show_progress and transformers_logging.is_progress_bar_enabled()
    if hide:
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # theirs
    try:
        yield
    finally:
        if hide:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # theirs


def _pool(threads: int) -> ThreadPoolExecutor:
    """The process's threads for batches, each of which computes alone.

    `set_num_threads` is for the thread that calls it, but also for every thread that will start
    later; so all start now, and then it is put back, by a thread of which nothing else remains.
    """
    with loading.get():
        pools = _workers.get()
        if threads not in pools:
            with ThreadPoolExecutor(1) as aside:
                before = aside.submit(torch.get_num_threads).result()
            started = threading.Barrier(threads)
            pools[threads] = ThreadPoolExecutor(
                threads, "rerank", initializer=torch.set_num_threads, initargs=(1,)
            )
            for future in [pools[threads].submit(started.wait) for _ in range(threads)]:
                future.result()
            with ThreadPoolExecutor(1) as aside:
                aside.submit(torch.set_num_threads, before).result()
        return pools[threads]
