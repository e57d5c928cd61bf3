"""Train the small reasoner of the confirmation from scratch, on CPU.

    python -m clearopt.confirmation.train_reasoner --out DIR --minutes 50 --seed 0

A Llama of about 0.9 million parameters learns to write out the solutions of `tasks` from an
endless stream of generated examples. Held-out prompts are never shown. The export in DIR is
what `AutoModelForCausalLM`, `AutoTokenizer` and vLLM load; it is renewed every few minutes and on
Ctrl-C, and ``--resume`` goes on from the checkpoint (DIR.checkpoint.pt, beside the export).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clearopt.confirmation import tasks

SIZE_LIMIT = 4_000_000
"""The whole export folder must not exceed this many bytes."""

BEGIN, END, PAD = "<s>", "</s>", "<pad>"
MAX_WORDS = 512
"""Longest prompt with its solution, in tokens."""


@dataclass(frozen=True)
class Options:
    """What a training run depends on (times in minutes, sizes in tokens per optimiser step)."""

    out: Path
    minutes: float = 50.0
    steps: int = 1_000_000
    seed: int = 0
    resume: bool = False
    width: int = 128
    layers: int = 4
    hidden: int = 384
    batch_tokens: int = 3072
    rate: float = 3e-3
    decay: float = 0.1
    export_minutes: float = 5.0
    log_steps: int = 100
    threads: int = 1
    compile: bool = False


def hide_broken_packages() -> None:
    """Keep transformers from importing vision and audio builds that do not fit CPU torch."""
    for name in ("torchvision", "torchaudio", "torchcodec"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def make_tokenizer() -> Any:
    """A tokenizer with one token per blank-separated word."""
    hide_broken_packages()
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [PAD, BEGIN, END, *tasks.vocabulary()]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=PAD))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # Decoded words are joined by blanks.
    core.decoder = decoders.WordPiece(prefix="##~", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        unk_token=PAD,
        model_max_length=MAX_WORDS,
        clean_up_tokenization_spaces=False,
    )


def make_model(options: Options, vocabulary_size: int) -> Any:
    """A fresh Llama; heads have 32 dimensions, which vLLM's CPU attention accepts."""
    hide_broken_packages()
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = options.width // 32
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=options.width,
        intermediate_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=32,
        max_position_embeddings=MAX_WORDS,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.04,
        # On CPU and at these sizes plain products beat the fused kernel by more than half.
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def batches(
    tokenizer: Any, options: Options, progress: list[float], seed: int
) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """Endless micro-batches (inputs, labels), two per step: rows of like length, little padding.

    Chains start short and reach full length after a tenth of the time (`progress[0]`, 0 to 1).
    In the first fifth operands are small: a few facts seen often are what gets learning started.
    """
    words = tokenizer.get_vocab()
    rng = np.random.default_rng(seed)
    while True:
        longest = min(tasks.TRAINED_STEPS, 4 + int(progress[0] / 0.1 * tasks.TRAINED_STEPS))
        reach = 0.375 if progress[0] < 0.2 else 1.0
        rows = []
        for _ in range(1024):
            prompt, solution = example(rng, longest, reach)
            front = [words[w] for w in prompt.split()]
            back = [words[w] for w in solution.split()] + [words[END]]
            rows.append((front, back))
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        micro = []
        while rows:
            length = len(rows[-1][0]) + len(rows[-1][1])
            count = max(1, options.batch_tokens // 2 // length)
            micro.append(_pad(rows[-count:]))
            del rows[-count:]
        order = rng.permutation(len(micro))
        for i, j in zip(order[::2], order[1::2], strict=False):
            yield [micro[i], micro[j]]


def example(rng: np.random.Generator, longest: int, reach: float) -> tuple[str, str]:
    """One training example (prompt, solution), never a held-out prompt."""
    difficulty = replace(tasks.TRAINING, longest=longest, reach=reach)
    while True:
        prompt = tasks.draw_prompt(rng, difficulty)
        if not tasks.is_held_out(prompt):
            return prompt, tasks.worked_solution(prompt, rng)


def rate_factor(progress: float, step: int) -> float:
    """The learning rate's factor: 100 steps of warm-up, then a cosine down to 1 % by wall time."""
    return min(1.0, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def export(model: Any, tokenizer: Any, out: Path) -> int:
    """Write the folder that vLLM loads; returns its size in bytes.

    It is written beside `out` and then moved into place file by file, so that a reader
    meanwhile finds whole files.
    """
    draft = out.with_name(out.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    _name_tokenizer_class(draft / "tokenizer_config.json")
    size = sum(f.stat().st_size for f in draft.iterdir())
    if size > SIZE_LIMIT:
        raise ValueError(f"the export has {size} bytes, more than {SIZE_LIMIT}")
    out.mkdir(parents=True, exist_ok=True)
    for file in draft.iterdir():
        file.chmod(0o644)  # weights are written readable by their owner alone
        os.replace(file, out / file.name)
    draft.rmdir()
    return size


def train(options: Options) -> None:
    """Train until the time is up, or Ctrl-C; either way a usable export is left."""
    hide_broken_packages()
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    tokenizer = make_tokenizer()
    model = make_model(options, len(tokenizer))
    # Gains and biases are not decayed.
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": options.decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.98))
    checkpoint = options.out.with_name(options.out.name + ".checkpoint.pt")
    step, seconds = 0, 0.0
    if options.resume:
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds = state["step"], state["seconds"]
    total = options.minutes * 60
    progress = [min(1.0, seconds / total)]
    # A resumed run sees other examples than the first part did.
    stream = batches(tokenizer, options, progress, seed=options.seed * 1_000_003 + step)

    def save() -> None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        size = export(model, tokenizer, options.out)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state | {"step": step, "seconds": seconds}, checkpoint)
        print(f"exported {size} bytes to {options.out}", flush=True)

    model.train()
    forward = torch.compile(model, dynamic=True) if options.compile else model
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters} parameters, {options}", flush=True)
    seen, losses, last_export, logged = 0, [], seconds, time.perf_counter()
    try:
        while seconds < total and step < options.steps:
            began = time.perf_counter()
            progress[0] = seconds / total
            for group in optimizer.param_groups:
                group["lr"] = options.rate * rate_factor(progress[0], step)
            parts = next(stream)
            count = sum(int((labels >= 0).sum()) for _, labels in parts)
            loss_sum = 0.0
            for inputs, labels in parts:
                # bfloat16 products are about twice as fast here; weights stay float32.
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    logits = forward(input_ids=torch.from_numpy(inputs), use_cache=False).logits
                targets = torch.from_numpy(labels)
                kept = targets >= 0
                loss = torch.nn.functional.cross_entropy(
                    logits[kept].float(), targets[kept], reduction="sum"
                )
                (loss / count).backward()
                loss_sum += float(loss.detach())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            seconds += time.perf_counter() - began
            losses.append(loss_sum / count)
            seen += sum(inputs.size for inputs, _ in parts)
            if step % options.log_steps == 0:
                now = time.perf_counter()
                print(
                    f"step {step} min {seconds / 60:.1f} loss {np.mean(losses):.4f} "
                    f"tok/s {seen / (now - logged):.0f}",
                    flush=True,
                )
                seen, losses, logged = 0, [], now
            if seconds - last_export >= options.export_minutes * 60:
                last_export = seconds
                save()
    except KeyboardInterrupt:
        print("stopped early", flush=True)
    save()


def _name_tokenizer_class(path: Path) -> None:
    """Name the tokenizer's class so that transformers 4 finds it as well as 5."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _pad(rows: list[tuple[list[int], list[int]]]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and next-token labels; only the solution part is learnt, the rest is -100."""
    width = max(len(front) + len(back) for front, back in rows) - 1
    inputs: np.ndarray = np.zeros((len(rows), width), dtype=np.int64)
    labels: np.ndarray = np.full((len(rows), width), -100, dtype=np.int64)
    for row, (front, back) in enumerate(rows):
        whole = front + back
        inputs[row, : len(whole) - 1] = whole[:-1]
        labels[row, len(front) - 1 : len(whole) - 1] = back
    return inputs, labels


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the export")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    parser.add_argument("--compile", action="store_true", help="compile (half as fast again)")
    for name, kind, text in (
        ("minutes", float, "wall time of the training, in minutes"),
        ("steps", int, "stop after that many steps; the schedule remains that of --minutes"),
        ("seed", int, "seed of weights and examples"),
        ("width", int, "hidden size, a multiple of 32"),
        ("layers", int, "number of layers"),
        ("hidden", int, "inner size of the feed-forward part"),
        ("batch-tokens", int, "tokens in a step"),
        ("rate", float, "peak learning rate"),
        ("threads", int, "CPU threads"),
    ):
        default = getattr(Options, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"{text} ({default})")
    train(Options(**vars(parser.parse_args(arguments))))


if __name__ == "__main__":
    main()
