"""Weights in this process, shared by all that ask for the same, and the loop that runs them."""

from __future__ import annotations

import logging
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from langchain_rerank.cancellation import check_cancelled
from langchain_rerank.cross_encoders import batching, frames, heads
from langchain_rerank.cross_encoders.checkpoint_files import RefusedError
from langchain_rerank.cross_encoders.processes import PerProcess
from langchain_rerank.cross_encoders.torch import best_device, torch_dtype
from langchain_rerank.cross_encoders.torch_packing import pack_linear_layers
from langchain_rerank.errors import ModelLoadError, ScoringError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from langchain_rerank.cross_encoders.checkpoint import Checkpoint
    from langchain_rerank.cross_encoders.frames import Frame
    from langchain_rerank.cross_encoders.tokenization import Windows
    from langchain_rerank.cross_encoders.torch import TorchCrossEncoder

logger = logging.getLogger(__name__)

# Padded tokens a batch. On a processor, batches that stay in its caches win over wide ones; a
# GPU wants enough rows to fill it, and 32k tokens of XLM-RoBERTa large stay under 8 GiB.
_BATCH_TOKENS = {"cpu": 512, "mps": 8192}
_BATCH_TOKENS_GPU = 32768
# On a processor oneDNN makes code for every size of input that it meets, and keeps it.
_WIDTH_MULTIPLE = {"cpu": 8}

_shared: weakref.WeakValueDictionary[Any, TorchModel] = weakref.WeakValueDictionary()
_loading = PerProcess(threading.RLock)
_workers: PerProcess[dict[int, ThreadPoolExecutor]] = PerProcess(dict)


def default_batch_tokens(device: str) -> int:
    """Token budget of a batch for a torch device such as "cpu" or "cuda:1"."""
    return _BATCH_TOKENS.get(device.partition(":")[0], _BATCH_TOKENS_GPU)


class TorchModel:
    """Loaded weights and their tokenizer. Whoever uses them holds `lock`."""

    def __init__(
        self, scorer: heads.Scorer, tokenizer: Any, checkpoint: Checkpoint, device: str
    ) -> None:
        """Take a model that is on `device` and in its dtype already."""
        self.checkpoint = checkpoint
        self.lock = PerProcess(threading.RLock)
        # One that a thread of the parent was using at the fork would stay locked in the child.
        self.tokenizer = PerProcess(lambda: heads.load_tokenizer(checkpoint))
        self.tokenizer.put(tokenizer)
        self._scorer = scorer
        self._device = device
        self._held_tokens: int | None = None
        self._frames: dict[str | None, Frame | None] = {}

    def frame(self, instruction: str | None) -> Frame | None:
        """What stands around a pair; None where pairs are encoded as such.

        Raises:
            ValueError: There is an instruction, and the model takes none.
        """
        if instruction not in self._frames:
            self._frames[instruction] = frames.frame_of_checkpoint(
                self.checkpoint, self.tokenizer.get(), instruction
            )
        return self._frames[instruction]

    def logits(
        self, windows: Windows, *, batch_tokens: int | None, show_progress: bool
    ) -> npt.NDArray[np.float64]:
        """Score every window; shape (windows,).

        Raises:
            ScoringError: One window alone does not fit into memory.
        """
        shared: list[int] = []
        features: Mapping[str, Sequence[Sequence[int]]] = windows.features
        if self._scorer.shares_prefixes:
            shared, features = batching.without_prefix(features)
        prefix = self._read_prefix(shared) if shared else None
        lengths = [len(row) for row in features["input_ids"]]
        budget = batch_tokens or self._held_tokens or default_batch_tokens(self._device)
        tokenizer = self.tokenizer.get()
        bar = tqdm(total=len(lengths), desc="Scoring", unit="pair", disable=not show_progress)
        scores: npt.NDArray[np.float64] = np.empty(len(lengths))
        multiple = _WIDTH_MULTIPLE.get(self._device, 1)

        def forward(batch: list[int]) -> torch.Tensor:
            side = self._scorer.padding_side or tokenizer.padding_side
            padded = batching.pad_batch(features, batch, tokenizer.pad_token_id, side, multiple)
            output = self._forward(padded, prefix)
            bar.update(len(batch))
            return output

        run = self._on_cores if self._device == "cpu" else self._on_accelerator
        with bar:
            batches, outputs = run(lengths, budget, forward)
        flat = torch.cat(outputs).double().cpu().numpy()
        scores[[position for batch in batches for position in batch]] = flat
        return scores

    def _on_cores(
        self, lengths: list[int], budget: int, forward: Callable[[list[int]], torch.Tensor]
    ) -> tuple[list[list[int]], list[torch.Tensor]]:
        """Run each batch on one thread, as many at once as PyTorch may use threads.

        Threads that share an operation wait on each other, for long where the cores are busy.
        """
        threads = torch.get_num_threads()
        # Few tokens are spread over all threads.
        budget = min(budget, max(-(-sum(lengths) // threads), 1))
        batches = batching.batches_by_length(lengths, budget)
        futures: list[Future[torch.Tensor]] = []
        pool = _pool(threads)
        outputs = []
        try:
            futures = [pool.submit(forward, batch) for batch in batches]
            for future in futures:
                check_cancelled()
                outputs.append(future.result())
        finally:
            for future in futures:
                future.cancel()
        return batches, outputs

    def _on_accelerator(
        self, lengths: list[int], budget: int, forward: Callable[[list[int]], torch.Tensor]
    ) -> tuple[list[list[int]], list[torch.Tensor]]:
        def checked(batch: list[int]) -> torch.Tensor:
            check_cancelled()
            return forward(batch)

        try:
            batches, outputs, held = batching.run_in_batches(
                lengths, budget, checked, torch.OutOfMemoryError
            )
        except torch.OutOfMemoryError as error:
            msg = (
                f"out of memory on {self._device} with a single pair of up to {max(lengths)} "
                "tokens; lower max_length, choose a smaller model or dtype, or free the device"
            )
            raise ScoringError(msg) from error
        if held < budget:
            logger.warning("out of memory: batches now hold %d tokens", held)
            self._held_tokens = held
        return batches, outputs

    def _read_prefix(self, shared: list[int]) -> Any:
        """Compute once what all rows start with."""

        def read() -> Any:
            with torch.inference_mode():
                return self._scorer.read_prefix(torch.tensor([shared], device=self._device))

        # On a CPU in a thread of the pool, so that a forked child needs no threads of PyTorch's.
        return (
            _pool(torch.get_num_threads()).submit(read).result()
            if self._device == "cpu"
            else read()
        )

    def _forward(
        self, padded: dict[str, npt.NDArray[np.int64]], prefix: Any = None
    ) -> torch.Tensor:
        """Logits of one batch, shape (rows,), left on the device so that none waits for it."""
        inputs = {name: torch.from_numpy(rows) for name, rows in padded.items()}
        # From pinned memory a copy to a GPU waits for nothing that the GPU still has to do.
        pinned = self._device.startswith("cuda")
        for name, rows in inputs.items():
            source = rows.pin_memory() if pinned else rows
            inputs[name] = source.to(self._device, non_blocking=pinned)
        with torch.inference_mode():
            logits: torch.Tensor = self._scorer(prefix, **inputs)
        return logits


def shared_model(settings: TorchCrossEncoder, checkpoint: Checkpoint) -> TorchModel:
    """Return the weights of a checkpoint, loaded once for all that ask for the same.

    Raises:
        ModelLoadError: They are missing, damaged or no reranker's.
    """
    device = settings.device or best_device()
    dtype = torch_dtype(settings.dtype, device)
    files = sorted(checkpoint.transformer.glob("*"))
    state = tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    key = (str(checkpoint.folder.resolve()), state, device, dtype, settings.trust_remote_code)
    with _loading.get():
        found = _shared.get(key)
        if found is None:
            try:
                found = _shared[key] = _load(settings, checkpoint, device, dtype)
            # transformers', safetensors' and the disk's own errors.
            except Exception as error:
                msg = (
                    f"could not load '{settings.model}' on {device}: {error}\n"
                    "Expected the name of a reranker on the Hugging Face hub, or a folder that "
                    "holds its config.json, weights and tokenizer."
                )
                raise ModelLoadError(msg) from error
    return found


def _load(
    settings: TorchCrossEncoder, checkpoint: Checkpoint, device: str, dtype: torch.dtype
) -> TorchModel:
    if checkpoint.float32_layers and dtype != torch.float32:
        msg = (
            f"it wants {', '.join(checkpoint.float32_layers)} computed in float32 "
            '(keep_in_fp32_modules); use dtype="float32"'
        )
        raise RefusedError(msg)
    trust = settings.trust_remote_code
    with hidden_bars(show_progress=settings.show_progress):
        tokenizer = heads.load_tokenizer(checkpoint, trust_remote_code=trust)
        scorer = heads.build(checkpoint, tokenizer, trust_remote_code=trust)
    scorer.to(device=device, dtype=dtype)
    if device == "cpu":
        pack_linear_layers(scorer)
    model = TorchModel(scorer, tokenizer, checkpoint, device)
    model.frame(None)
    return model


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
    """The process's threads for batches, each of which computes alone."""
    with _loading.get():
        pools = _workers.get()
        if threads not in pools:
            pools[threads] = _single_threaded_pool(threads)
        return pools[threads]


def _single_threaded_pool(threads: int) -> ThreadPoolExecutor:
    """Start all threads now, and leave no trace of their settings.

    `set_num_threads` is for the thread that calls it, but also for every thread that will start
    later; so that is put back, by a thread of which nothing else remains.
    """
    with ThreadPoolExecutor(1) as aside:
        before = aside.submit(torch.get_num_threads).result()
    started = threading.Barrier(threads)
    pool = ThreadPoolExecutor(
        threads, thread_name_prefix="rerank", initializer=torch.set_num_threads, initargs=(1,)
    )
    for future in [pool.submit(started.wait) for _ in range(threads)]:
        future.result()
    with ThreadPoolExecutor(1) as aside:
        aside.submit(torch.set_num_threads, before).result()
    return pool
