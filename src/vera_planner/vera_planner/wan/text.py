"""Goals in words to tokens, for Wan's cross-attention: UMT5 as published, MiniLM at small sizes."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import torch

from vera_planner.text import DIM as MINILM_DIM
from vera_planner.text import SentenceEncoder, shared_encoder

CACHED = 256  # prompts; a robot knows a handful at a time


class TextError(ValueError):
    """A prompt or an encoder that cannot be used; the message says why."""


class TextEncoder(Protocol):
    """Words to tokens.

    Attributes:
        dim: D, channels of a token; length: L, tokens, the last ones zeros.
    """

    dim: int
    length: int

    def __call__(self, prompt: str) -> torch.Tensor:
        """Float32 [L, D] on the CPU; a prompt seen before comes from a cache."""


def clean(prompt: str) -> str:
    """One line, single spaces, HTML entities resolved, as Wan's training captions.

    Raises:
        TextError: no string.
    """
    if not isinstance(prompt, str):
        raise TextError(f'the prompt is a {type(prompt).__name__}; it must be a string')
    # A lone surrogate, as half a character cut off in transport, is no text for any tokenizer.
    sound = prompt.encode('utf-8', 'replace').decode('utf-8')
    return ' '.join(html.unescape(html.unescape(sound)).split())


class _Cached(ABC):
    """Tokens by prompt, without the zeros, so that hundreds of prompts take little memory."""

    dim: int
    length: int

    def __init__(self) -> None:
        self._known: OrderedDict[str, torch.Tensor] = OrderedDict()

    def __call__(self, prompt: str) -> torch.Tensor:
        """Float32 [L, D]."""
        prompt = clean(prompt)
        if prompt in self._known:
            self._known.move_to_end(prompt)
        else:
            self._known[prompt] = self._encode(prompt).to('cpu', torch.float32).clone()
            if len(self._known) > CACHED:
                self._known.popitem(last=False)
        tokens = self._known[prompt]
        return torch.nn.functional.pad(tokens, (0, 0, 0, self.length - len(tokens)))

    @abstractmethod
    def _encode(self, prompt: str) -> torch.Tensor:
        """Hidden states of a prompt that is not known yet, [l, D], l <= L."""


class Umt5Text(_Cached):
    """UMT5, as Wan was trained with: hidden states of the tokens, zeros after the last one.

    Args:
        load: gives UMT5EncoderModel and tokenizer; called at the first unknown prompt, since
            the published encoder takes 11 GB in bfloat16.
        dim: channels of its hidden states.
        length: tokens; longer prompts lose their end.
        device: where it computes.
    """

    def __init__(
        self,
        load: Callable[[], tuple[Any, Any]],
        dim: int = 4096,
        length: int = 512,
        device: str | torch.device = 'cpu',
    ) -> None:
        super().__init__()
        self.dim = dim
        self.length = length
        self.device = torch.device(device)
        self._load = load
        self._loaded: tuple[Any, Any] | None = None

    def release(self) -> None:
        """Free the encoder's memory; known prompts stay, the next unknown one loads it again."""
        self._loaded = None

    @torch.inference_mode()
    def _encode(self, prompt: str) -> torch.Tensor:
        if self._loaded is None:
            model, tokenizer = self._load()
            self._loaded = model.to(self.device).eval(), tokenizer
        model, tokenizer = self._loaded
        batch = tokenizer(
            prompt,
            truncation=True,
            max_length=self.length,
            add_special_tokens=True,
            return_tensors='pt',
        )
        hidden = model(
            batch['input_ids'].to(self.device), batch['attention_mask'].to(self.device)
        ).last_hidden_state[0]
        if hidden.shape[-1] != self.dim:
            raise TextError(
                f'the text encoder gives {hidden.shape[-1]} channels; the model wants {self.dim}'
            )
        return hidden


class MiniLmText(_Cached):
    """MiniLM: the sentence first, then its tokens; every row has length sqrt(D).

    Args:
        length: rows, the sentence's one included; longer prompts lose their end, except in the
            first row.
        encoder: the process's shared one if None.
    """

    dim = MINILM_DIM

    def __init__(self, length: int, encoder: SentenceEncoder | None = None) -> None:
        super().__init__()
        self.length = length
        self._encoder = encoder

    def _encode(self, prompt: str) -> torch.Tensor:
        encoder = self._encoder or shared_encoder()
        sentence = torch.from_numpy(encoder(prompt))[None]
        tokens = torch.from_numpy(encoder.tokens(prompt))
        rows = torch.cat([sentence, tokens])[: self.length]
        return torch.nn.functional.normalize(rows, dim=-1) * self.dim**0.5
