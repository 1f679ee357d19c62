"""Rerankers in PyTorch, loaded by transformers alone."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PrivateAttr

from langchain_rerank.cross_encoders import batching
from langchain_rerank.cross_encoders.base import DEFAULT_MODEL, LocalCrossEncoder
from langchain_rerank.cross_encoders.torch_encoder import TorchEncoder
from langchain_rerank.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt


class TorchCrossEncoder(LocalCrossEncoder):
    """Any reranker checkpoint, as a LangChain cross encoder."""

    model: str = Field(default=DEFAULT_MODEL, min_length=1)
    """Name on the Hugging Face hub, or path of a folder."""
    device: str | None = None
    """One torch device such as "cuda:1" or "cpu"; None picks cuda, then mps, then cpu."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights. "auto" is float32 on a CPU, elsewhere bfloat16 where the device
    has it and float16 where not."""
    trust_remote_code: bool = False
    """Run model code that comes with the checkpoint, as the Jina and GTE rerankers need."""

    _encoder: TorchEncoder | None = PrivateAttr(default=None)

    def load(self) -> None:
        """Load the weights now instead of at the first `score`; does nothing once loaded."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from langchain_rerank.cross_encoders import flag_loading

        with self._lock:
            if self._encoder is not None:
                return
            device = self.device or flag_loading.best_device()
            try:
                tokenizer = AutoTokenizer.from_pretrained(self.model)
                model, report = AutoModelForSequenceClassification.from_pretrained(
                    self.model, trust_remote_code=self.trust_remote_code, output_loading_info=True
                )
                if report["missing_keys"]:
                    msg = f"the checkpoint lacks weights of a reranker: {report['missing_keys']}"
                    raise ValueError(msg)
                wanted = flag_loading._torch_dtype(self.dtype, device)  # noqa: SLF001  # interim
                model.to(device=device, dtype=wanted).eval()
            except Exception as error:
                msg = f"could not load '{self.model}' on {device}: {error}"
                raise ModelLoadError(msg) from error
            self._encoder = TorchEncoder(model, tokenizer, device, self.batch_tokens)

    def close(self) -> None:
        """Free the weights; the next `score` loads them again."""
        with self._lock:
            self._encoder = None
        gc.collect()

    def _logits(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
        if self._encoder is None:
            msg = "_logits is called loaded"
            raise AssertionError(msg)
        windows = self._windows(self._encoder.tokenizer, pairs)
        logits = self._encoder.logits(windows, show_progress=self.show_progress)
        return batching.merge_windows(logits, windows.owners, self.long_documents)
