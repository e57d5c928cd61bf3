"""`Engine`: a model in vLLM that generates with a cap and a seed of its own for every query."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clearopt.errors import DeclarationError
from clearopt.serving.environment import import_vllm, is_cpu_build, vllm_installed
from clearopt.serving.failures import EngineError, RefusedError
from clearopt.serving.lifetime import live_as_long_as_others
from clearopt.serving.models import model_name, resolve_model
from clearopt.serving.requests import ABANDONED, Generation, Request, whole_numbers
from clearopt.serving.stepping import Stepper
from clearopt.validation import require

__all__ = ["Engine", "EngineError", "Generation", "vllm_installed"]

_BATCHED_TOKENS = 8192  # prompt tokens in one step, at least; prompts are never split on CPU
_AT_ONCE = 256  # requests under way; vLLM's own default for its batch


class Engine:
    """vLLM's offline engine in this process.

    On CPU, the settings that work there are chosen unless the environment says otherwise: one
    process, one OpenMP thread, 1 GiB of KV cache, float32, no compilation. They are environment
    variables that vLLM reads when it is first imported, so make the engine before importing vLLM
    yourself. The same prompts, caps and seeds in the same batch give the same answers.

    Args:
        model: "reasoner", "smollm2", a folder, or a name on the Hugging Face hub
            (see `resolve_model`).
        seed: seed of the engine; every query has its own besides.
        max_model_len: longest prompt with its answer, in tokens; None: what the model was made for.
        options: passed on to `vllm.LLM`, over the defaults chosen here.

    Raises:
        MissingExtraError: vLLM is not installed; says what to install.
        ModelError: there is no such model.
        EngineError: vLLM cannot load it.
    """

    def __init__(
        self, model: str | Path, *, seed: int = 0, max_model_len: int | None = None, **options: Any
    ) -> None:
        if max_model_len is not None and max_model_len < 2:
            raise DeclarationError(f"max_model_len = {max_model_len!r}: must be at least 2 tokens")
        if not vllm_installed():  # before a model is converted for nothing
            import_vllm(offline=True)
        self.model = str(model)
        self.location = resolve_model(model)
        offline = Path(self.location).is_dir()
        self._vllm = import_vllm(offline=offline)
        settings: dict[str, Any] = {
            "seed": seed,
            "max_model_len": max_model_len,
            # With a prefix in the cache a prompt is computed in other pieces, and rounds
            # differently: a repeated batch would not be the same batch.
            "enable_prefix_caching": False,
            "use_tqdm_on_load": False,
        }
        if is_cpu_build():
            settings |= {
                "enforce_eager": True,  # compiling takes 30 s and gains 5 %
                "dtype": "float32",
                # A request with its own seed whose prompt is computed in chunks crashes on CPU.
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(
                    _BATCHED_TOKENS, max_model_len or self._longest_context()
                ),
            }
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                self._llm = self._vllm.LLM(model=self.location, **(settings | options))
        except Exception as error:  # vLLM raises whatever the layer below raised
            raise EngineError(
                f"vLLM cannot load {self.model!r} from {self.location}: "
                f"{type(error).__name__}: {error}"
            ) from error
        live_as_long_as_others(self, self._llm)
        self.max_model_len = int(self._llm.llm_engine.model_config.max_model_len)
        self.concurrency = _AT_ONCE
        self._stepper = Stepper(self._llm.llm_engine)
        self._interrupted = False

    def generate(
        self,
        prompts: Sequence[str],
        max_tokens: ArrayLike,
        seeds: ArrayLike,
        temperature: float = 1.0,
        *,
        stop: Sequence[str] = (),
    ) -> list[Generation]:
        """Answer n prompts in one batch, each under its own cap and seed, in their order.

        Args:
            prompts: n texts.
            max_tokens: cap of each answer in tokens, whole numbers, one or (n,); a query with
                less than 1 is abandoned: it is not sent and comes back empty.
            seeds: seed of each answer, whole numbers of at least 0, one or (n,).
            temperature: of the sampling; 0 takes the likeliest token.
            stop: texts that end an answer, and are not part of it.

        Raises:
            DeclarationError: lengths differ, a cap or seed is not whole, a prompt does not fit.
            EngineError: vLLM generated more than a query's cap, or not every answer.
        """
        caps = whole_numbers(max_tokens, len(prompts), "max_tokens")
        own_seeds = whole_numbers(seeds, len(prompts), "seeds")
        require(own_seeds, own_seeds >= 0, "seeds", "must be at least 0")
        if not (isinstance(temperature, int | float) and 0 <= temperature < math.inf):
            raise DeclarationError(f"temperature = {temperature!r}: must be a number of at least 0")
        if self._interrupted:
            raise EngineError("this engine was interrupted while generating: make a new one")
        sent = np.flatnonzero(caps >= 1)
        answers = [ABANDONED] * len(prompts)
        if not sent.size:
            return answers
        requests, settings = [], []
        for i in sent:
            requests.append({"prompt_token_ids": self._encode(prompts[i], int(i))})
            settings.append(
                self._vllm.SamplingParams(
                    temperature=float(temperature),
                    max_tokens=int(caps[i]),
                    seed=int(own_seeds[i]),
                    stop=list(stop),
                    skip_special_tokens=True,
                )
            )
        try:
            outputs = self._llm.generate(requests, settings, use_tqdm=False)
        except Exception as error:
            raise EngineError(
                f"vLLM failed while generating: {type(error).__name__}: {error}"
            ) from error
        finally:  # what an interruption leaves in the engine would mix with the next batch
            self._interrupted = bool(self._llm.llm_engine.has_unfinished_requests())
        if len(outputs) != sent.size:
            raise EngineError(f"vLLM answered {len(outputs)} of {sent.size} prompts")
        for i, output in zip(sent, outputs, strict=True):
            completion = output.outputs[0]
            ids = tuple(int(token) for token in completion.token_ids)
            if len(ids) > caps[i]:
                raise EngineError(
                    f"vLLM generated {len(ids)} tokens for prompts[{i}], whose cap is {caps[i]}"
                )
            reason = str(completion.finish_reason)
            answers[i] = Generation(completion.text, len(ids), reason, ids)
        return answers

    # ------------------------------------------------------------------ one face of all engines
    @property
    def name(self) -> str:
        """The model, by what it is made of."""
        return model_name(self.model, self.location)

    async def __aenter__(self) -> Self:
        if self._interrupted:
            raise EngineError("this engine was interrupted while generating: make a new one")
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def answer(self, request: Request) -> Generation:
        """Answer one request; those under way at the same time are generated as one batch.

        Raises:
            RefusedError: vLLM does not take it.
            EngineError: vLLM failed.
        """
        prompt, prefix = request.prompt, request.prefix
        if isinstance(prompt, str):
            told = self.chat(prompt) if request.chat else self.encode(prompt, special=True)
            prompt = await told
        ids = [*prompt]
        if prefix.tokens and len(prefix.token_ids) != prefix.tokens:
            raise RefusedError("the tokens of the prefix are not known, so it cannot be continued")
        ids += prefix.token_ids
        output = await self._stepper.run(
            ids,
            self._vllm.SamplingParams(
                temperature=float(request.temperature),
                max_tokens=request.max_tokens,
                seed=request.seed,
                stop=list(request.stop),
                skip_special_tokens=True,
                thinking_token_budget=request.thinking_tokens,
                output_kind=self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
            ),
        )
        completion = output.outputs[0]
        answered = tuple(int(token) for token in completion.token_ids)
        return Generation(completion.text, len(answered), str(completion.finish_reason), answered)

    async def encode(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        """The tokens of a text; without `special`, as they stand inside an answer."""
        tokenizer = self._llm.get_tokenizer()
        try:
            return tuple(int(t) for t in tokenizer.encode(text, add_special_tokens=special))
        except ValueError as error:  # vLLM's tokenizers refuse what is too long for the model
            raise RefusedError(str(error)) from error

    async def chat(self, message: str) -> tuple[int, ...]:
        """The tokens of a user's message in the model's chat template, up to the answer.

        Raises:
            RefusedError: the model has none.
        """
        try:
            text = self._llm.get_tokenizer().apply_chat_template(
                [{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # templates raise what they like
            raise RefusedError(f"no chat template for {self.model!r}: {error}") from error
        return await self.encode(str(text))

    def count_tokens(self, prompts: Sequence[str]) -> NDArray[np.intp]:
        """How many tokens each prompt has, (n,)."""
        tokenizer = self._llm.get_tokenizer()
        return np.array([len(tokenizer.encode(prompt)) for prompt in prompts], dtype=np.intp)

    def _encode(self, prompt: str, position: int) -> list[int]:
        ids = [int(token) for token in self._llm.get_tokenizer().encode(prompt)]
        if not ids or len(ids) >= self.max_model_len:
            raise DeclarationError(
                f"prompts[{position}] has {len(ids)} tokens: the model takes 1 to "
                f"{self.max_model_len - 1}, to leave room for an answer"
            )
        return ids

    def _longest_context(self) -> int:
        """What the model was made for (tokens), from its configuration."""
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(self.location)
        except (OSError, ValueError) as error:
            raise EngineError(f"{self.model!r} cannot be loaded: {error}") from error
        return int(getattr(config, "max_position_embeddings", 0) or 0)

    def __repr__(self) -> str:
        return f"Engine({self.model!r}, max_model_len={self.max_model_len})"
