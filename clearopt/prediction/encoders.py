"""Encoders: prompts to sentence embeddings, as `Features`. Each is imported when it is first used.

An encoder is anything that maps a list of n texts to an (n, d) array; `encode` makes `Features` of
it. Two come with the package: `WordLlamaEncoder`, whose weights lie in a wheel and need no network,
and `HuggingFaceEncoder` around any encoder that transformers loads.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from clearopt.errors import DeclarationError, MissingExtraError
from clearopt.prediction.features import Features, checked_texts
from clearopt.serving.environment import hide_broken_companions
from clearopt.validation import FloatArray

Encoder: TypeAlias = Callable[[list[str]], ArrayLike]
"""n texts to an (n, d) array of numbers."""


def encode(texts: Sequence[str], encoder: Encoder, *, name: str = "embedding") -> Features:
    """The embeddings of prompts as features `name[0]`, `name[1]`, ...

    Args:
        texts: (n,) prompts.
        encoder: one of this module's, or a function of your own.
        name: of the features.

    Raises:
        DeclarationError: an entry is no text, or the encoder gives something else than n rows of
            finite numbers.
        MissingExtraError: a package that the encoder needs is not installed.
    """
    checked = checked_texts(texts)
    values = np.asarray(encoder(checked), dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != len(checked):
        raise DeclarationError(
            f"encoder: gave shape {values.shape} for {len(checked)} texts; it must give one row of "
            "numbers a text"
        )
    return Features(tuple(f"{name}[{k}]" for k in range(values.shape[1])), values)


_WORDLLAMA_WEIGHTS = ("weights", "l2_supercat_256.safetensors")
_WORDLLAMA_TOKENIZER = ("tokenizers", "l2_supercat_tokenizer_config.json")


@dataclass(frozen=True)
class WordLlamaEncoder:
    """WordLlama's 256-dimensional embedding, a mean of word vectors: light, fast, and offline.

    The files are read from the installed wheel, not through its own loader, which looks for the
    tokenizer in another folder than it is shipped in and then downloads it.

    Args:
        normalized: scale every embedding to length 1.

    Raises:
        MissingExtraError: on use: `wordllama` is not installed; names the extra.
    """

    normalized: bool = True
    _loaded: list[Any] = field(default_factory=list, repr=False, compare=False)

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        """(n, 256) embeddings; an empty text is 0."""
        tokenizer, vectors = self._load()
        found = np.zeros((len(texts), vectors.shape[1]))
        for i, encoded in enumerate(tokenizer.encode_batch(list(texts), add_special_tokens=False)):
            if encoded.ids:
                found[i] = vectors[np.minimum(encoded.ids, vectors.shape[0] - 1)].mean(axis=0)
        if self.normalized:
            length = np.linalg.norm(found, axis=1, keepdims=True)
            found = np.divide(found, length, out=np.zeros_like(found), where=length > 0)
        return found

    def _load(self) -> tuple[Any, FloatArray]:
        if not self._loaded:
            installed = importlib.util.find_spec("wordllama")
            if installed is None or installed.origin is None:
                raise MissingExtraError(
                    "WordLlamaEncoder needs the package wordllama, which is not installed: "
                    "pip install 'clearopt[predict]'"
                )
            home = Path(installed.origin).parent
            weights, tokenizer = (
                home.joinpath(*place) for place in (_WORDLLAMA_WEIGHTS, _WORDLLAMA_TOKENIZER)
            )
            for path in (weights, tokenizer):
                if not path.exists():
                    raise MissingExtraError(
                        f"WordLlamaEncoder: this wordllama does not ship {path.name}: "
                        "pip install 'wordllama>=0.4,<0.5'"
                    )
            from safetensors.numpy import load_file
            from tokenizers import Tokenizer

            vectors = load_file(weights)["embedding.weight"].astype(np.float64)
            reader = Tokenizer.from_file(str(tokenizer))
            reader.no_padding()
            reader.no_truncation()
            self._loaded.append((reader, vectors))
        loaded: tuple[Any, FloatArray] = self._loaded[0]
        return loaded


@dataclass(frozen=True)
class HuggingFaceEncoder:
    """Any encoder that transformers loads, its last layer averaged over the words of the prompt.

    Args:
        model: a folder, or a name on the hub. With a name and no network, what was downloaded
            before is used (`HF_HUB_OFFLINE=1`).
        batch: prompts encoded at once.
        longest: tokens of a prompt that are read; what comes after them is cut off.
        device: where PyTorch computes, "cpu" or "cuda".

    Raises:
        MissingExtraError: on use: transformers or PyTorch is not installed.
        DeclarationError: on use: the model cannot be loaded; with its own message.
    """

    model: str | os.PathLike[str]
    batch: int = 32
    longest: int = 512
    device: str = "cpu"
    _loaded: list[Any] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, value in (("batch", self.batch), ("longest", self.longest)):
            if value < 1:
                raise DeclarationError(
                    f"HuggingFaceEncoder: {name} = {value!r}: must be at least 1"
                )

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        """(n, hidden size) embeddings, float64 of a float32 model."""
        torch, tokenizer, model = self._load()
        parts = []
        for start in range(0, len(texts), self.batch):
            # The longest of a batch sets its width, so a padded place must not count.
            tokens = tokenizer(
                list(texts[start : start + self.batch]),
                padding=True,
                truncation=True,
                max_length=self.longest,
                return_tensors="pt",
            ).to(self.device)
            with torch.inference_mode():
                hidden = model(**tokens).last_hidden_state.double()
            counts = tokens["attention_mask"].unsqueeze(-1).double()
            mean = (hidden * counts).sum(1) / counts.sum(1).clamp(min=1.0)
            parts.append(mean.cpu().numpy())
        return np.concatenate(parts)

    def _load(self) -> Any:
        if not self._loaded:
            hide_broken_companions()
            try:
                import torch
                from transformers import AutoModel, AutoTokenizer
            except ImportError as error:
                raise MissingExtraError(
                    "HuggingFaceEncoder needs transformers and PyTorch: "
                    f"pip install transformers torch ({error})"
                ) from error
            try:
                tokenizer = AutoTokenizer.from_pretrained(self.model)
                model = AutoModel.from_pretrained(self.model, dtype=torch.float32)
            except (OSError, ValueError) as error:
                raise DeclarationError(
                    f"HuggingFaceEncoder: {self.model} cannot be loaded: {error}"
                ) from error
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
            self._loaded.append((torch, tokenizer, model.to(self.device).eval()))
        return self._loaded[0]
