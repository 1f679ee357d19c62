"""The forward loop of encoder-only rerankers in PyTorch."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_rerank.cross_encoders import batching
from langchain_rerank.errors import ScoringError

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from langchain_rerank.cross_encoders.tokenization import Windows

logger = logging.getLogger(__name__)

# Padded tokens a batch. On a processor, batches that stay in its caches win over wide ones; a
# GPU wants enough rows to fill it, and 32k tokens of XLM-RoBERTa large stay under 8 GiB.
_BATCH_TOKENS = {"cpu": 1024, "mps": 8192}
_BATCH_TOKENS_GPU = 32768


def default_batch_tokens(device: str) -> int:
    """Token budget of a batch for a torch device such as "cpu" or "cuda:1"."""
    return _BATCH_TOKENS.get(device.partition(":")[0], _BATCH_TOKENS_GPU)


class TorchEncoder:
    """A sequence-classification model with one logit, ready to score. Not thread-safe."""

    def __init__(self, model: Any, tokenizer: Any, device: str, batch_tokens: int | None) -> None:
        """Take a loaded model, already on `device` and in its dtype, and its tokenizer.

        On a CPU the model's linear layers are replaced by faster ones.
        """
        from langchain_rerank.cross_encoders.torch_packing import pack_linear_layers

        if device == "cpu":
            pack_linear_layers(model)
        self.tokenizer = tokenizer
        self._model = model
        self._device = device
        self._batch_tokens = batch_tokens or default_batch_tokens(device)

    def logits(self, windows: Windows, *, show_progress: bool) -> npt.NDArray[np.float64]:
        """Score every window; shape (windows,).

        Raises:
            ScoringError: One window alone does not fit into memory.
        """
        import torch
        from tqdm.auto import tqdm

        lengths = [len(row) for row in windows.features["input_ids"]]
        progress = tqdm(total=len(lengths), desc="Scoring", unit="pair", disable=not show_progress)

        def forward(batch: list[int]) -> torch.Tensor:
            output = self._forward(windows, batch)
            progress.update(len(batch))
            return output

        try:
            with torch.inference_mode(), progress:
                batches, outputs, held = batching.run_in_batches(
                    lengths, self._batch_tokens, forward, torch.OutOfMemoryError
                )
                flat = torch.cat(outputs).double().cpu().numpy()
        except torch.OutOfMemoryError as error:
            msg = (
                f"out of memory on {self._device} with a single pair of up to {max(lengths)} "
                "tokens; lower max_length, choose a smaller model or dtype, or free the device"
            )
            raise ScoringError(msg) from error
        if held < self._batch_tokens:
            logger.warning("out of memory: batches now hold %d tokens", held)
            self._batch_tokens = held
        scores: npt.NDArray[np.float64] = np.empty(len(lengths))
        scores[[position for batch in batches for position in batch]] = flat
        return scores

    def _forward(self, windows: Windows, batch: list[int]) -> torch.Tensor:
        """Logits of one batch, shape (batch,), left on the device so that none waits for it."""
        import torch

        padded = batching.pad_batch(
            windows.features, batch, self.tokenizer.pad_token_id, self.tokenizer.padding_side
        )
        inputs = {name: torch.from_numpy(rows) for name, rows in padded.items()}
        # From pinned memory a copy to a GPU waits for nothing that the GPU still has to do.
        pinned = self._device.startswith("cuda")
        for name, rows in inputs.items():
            source = rows.pin_memory() if pinned else rows
            inputs[name] = source.to(self._device, non_blocking=pinned)
        logits: torch.Tensor = self._model(**inputs, return_dict=True).logits
        return logits.view(-1)
