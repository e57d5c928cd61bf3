"""Multi-step reasoning problems with an exact verifier, made from a seed.

A problem is a chain of operations on integers modulo 43, every step labelled::

    mod 43 : 17 s1 + 9 s2 x 4 s3 - 12 ?

and a worked solution writes the steps out, the answer last::

    steady s1 17 + 9 = 26 s2 26 x 4 = 9 35 18 check 26 x 4 = 18 s3 18 - 12 = 6 #### 6

All words are separated by blanks and a number is one word, so for the shipped reasoner, whose
tokenizer has one token per word, lengths in words are lengths in tokens.

The operations differ in what they cost and in how hard they are:

========  ==============================================  =====================================
operator  meaning (modulo 43)                             written as
========  ==============================================  =====================================
``+ k``   add k                                           one result: 6 words with its label
``- k``   subtract k                                      one result: 6 words
``x k``   multiply by a small k, by repeated addition     all running sums: 4 + k words
``* k``   multiply by a large k, in the head              one result: 6 words
``^ k``   power, in the head                              one result: 6 words, never trained on
========  ==============================================  =====================================

A solution first says how carefully it goes about its work, and that sets how often a step is
followed by a check. So the same prompt needs a random number of words: a least number plus an
extra with a right tail, as with large reasoning models.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

MODULUS = 43
"""Prime modulus of all arithmetic: a blind guess is right about once in 43."""

TRAINED_STEPS = 20
"""Longest chain (steps) the reasoner is trained on; longer ones are beyond it."""

LONGEST_CHAIN = 30
"""Longest chain (steps) that can be generated."""

MANNERS: tuple[tuple[str, float, float], ...] = (
    ("brief", 0.25, 0.02),
    ("plain", 0.30, 0.17),
    ("steady", 0.22, 0.38),
    ("careful", 0.15, 0.65),
    ("thorough", 0.08, 0.97),
)
"""(word, share of solutions, probability that a step is checked): together the share of checked
steps is spread like a Gamma variable of shape two."""

ANSWER_MARK = "####"
OPERATORS: tuple[str, ...] = ("+", "-", "x", "*", "^")
POWERS = (5, 11, 13, 17, 19, 23, 29, 31, 37, 41)
"""Exponents: primes that do not divide 42, so that every power is a permutation of the values."""

_OPERANDS: dict[str, tuple[int, ...]] = {
    "+": tuple(range(1, MODULUS)),
    "-": tuple(range(1, MODULUS)),
    "x": tuple(range(2, 9)),
    "*": tuple(range(9, 41)),
    "^": POWERS,
}
_NAMES = {"+": "add", "-": "subtract", "x": "repeat", "*": "product", "^": "power"}
_HELD_OUT_MODULUS = 8
_PROMPT = re.compile(rf"mod {MODULUS} : (\d+)(?: s\d+ [-+x*^] \d+)+ \?")
_STEP = re.compile(r"s\d+ ([-+x*^]) (\d+)")
_ANSWER = re.compile(re.escape(ANSWER_MARK) + r"(?:[ \t]*(\S+))?")

Side = Literal["held_out", "training", "any"]


@dataclass(frozen=True)
class Task:
    """One problem.

    Attributes:
        task_id: stable name, a digest of the prompt.
        prompt: what the model is given.
        answer: the one right final answer, a decimal integer in [0, 43).
        features: what can be seen in the prompt alone (see `prompt_features`).
    """

    task_id: str
    prompt: str
    answer: str
    features: Mapping[str, float] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Step:
    """One step of a chain: its operator (one of `OPERATORS`) and its operand."""

    operator: str
    operand: int


@dataclass(frozen=True)
class Difficulty:
    """How hard a batch of problems is.

    Attributes:
        longest: ordinary chains have 1 to `longest` steps.
        tilt: their length is the u^tilt quantile of that range, u uniform: 1 makes every length
            equally likely, below 1 long chains are more frequent, and queries of very small need
            are few, as in a batch of reasoning problems.
        weights: relative frequency of ``+``, ``-``, ``x`` and ``*`` among their steps.
        skew: operands are the u^skew quantile of their range: above 1 small ones are more
            frequent (as in training, so that large ones stay harder).
        reach: share of each range that operands are drawn from, from its low end, in (0, 1]; not
            for ``x``, whose work is written out.
        beyond: share of problems beyond the reasoner: half of them chains of 24 to 30 steps, half
            short chains with a power in them.
    """

    longest: int = TRAINED_STEPS
    tilt: float = 0.8
    weights: tuple[float, float, float, float] = (0.35, 0.35, 0.20, 0.10)
    skew: float = 0.8
    reach: float = 1.0
    beyond: float = 0.08

    def __post_init__(self) -> None:
        if not 1 <= self.longest <= LONGEST_CHAIN:
            raise ValueError(f"longest must be between 1 and {LONGEST_CHAIN}, got {self.longest}")
        if len(self.weights) != 4 or min(self.weights) < 0 or not sum(self.weights) > 0:
            raise ValueError(f"weights must be 4 non-negative numbers, not all 0: {self.weights}")
        for name, power in (("tilt", self.tilt), ("skew", self.skew)):
            if not 0 < power < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {power}")
        if not 0 < self.reach <= 1:
            raise ValueError(f"reach must lie in (0, 1], got {self.reach}")
        if not 0 <= self.beyond <= 1:
            raise ValueError(f"beyond must lie between 0 and 1, got {self.beyond}")


ORDINARY = Difficulty()
"""The difficulty of the confirmation's batch."""

TRAINING = Difficulty(tilt=1.0, weights=(0.30, 0.25, 0.25, 0.20), skew=1.5, beyond=0.0)
"""What the reasoner is trained on: no chain beyond `TRAINED_STEPS`, no power."""


def apply(value: int, step: Step) -> int:
    """The result of one step, in [0, 43)."""
    match step.operator:
        case "+":
            return (value + step.operand) % MODULUS
        case "-":
            return (value - step.operand) % MODULUS
        case "x" | "*":
            return value * step.operand % MODULUS
        case "^":
            return pow(value, step.operand, MODULUS)
    raise ValueError(f"unknown operator {step.operator!r}")


def format_prompt(start: int, steps: list[Step]) -> str:
    """The prompt of a chain."""
    middle = " ".join(f"s{i} {s.operator} {s.operand}" for i, s in enumerate(steps, 1))
    return f"mod {MODULUS} : {start} {middle} ?"


def parse_prompt(prompt: str) -> tuple[int, list[Step]]:
    """The start value and the steps of a prompt; ValueError if it is not one."""
    found = _PROMPT.fullmatch(prompt)
    steps = [Step(o, int(k)) for o, k in _STEP.findall(prompt)]
    if found is None or format_prompt(int(found[1]), steps) != prompt:
        raise ValueError(f"not a chain problem: {prompt!r}")
    return int(found[1]), steps


def prompt_features(prompt: str) -> dict[str, float]:
    """What the prompt shows: counts only, the chain is not worked out.

    ``steps`` (all steps); ``add``, ``subtract``, ``repeat``, ``product``, ``power`` (steps of each
    kind); ``add_total`` and so on (sum of the operands of each kind); ``prompt_words``.
    """
    _, steps = parse_prompt(prompt)
    features = {"steps": float(len(steps))}
    for operator in OPERATORS:
        operands = [s.operand for s in steps if s.operator == operator]
        features[_NAMES[operator]] = float(len(operands))
        features[f"{_NAMES[operator]}_total"] = float(sum(operands))
    features["prompt_words"] = float(len(prompt.split()))
    return features


def make_task(prompt: str) -> Task:
    """The task of a prompt, its answer worked out exactly."""
    value, steps = parse_prompt(prompt)
    for step in steps:
        value = apply(value, step)
    return Task(f"task-{_digest(prompt):016x}", prompt, str(value), prompt_features(prompt))


def is_held_out(prompt: str) -> bool:
    """Whether a prompt is reserved for calibration and evaluation: one in eight, by its digest."""
    return _digest(prompt) % _HELD_OUT_MODULUS == 0


def draw_prompt(rng: np.random.Generator, difficulty: Difficulty = ORDINARY) -> str:
    """One random prompt of the given difficulty, from either side of the hold-out."""
    kind = rng.random()
    powers = 0
    if kind < difficulty.beyond / 2:
        count = int(rng.integers(TRAINED_STEPS + 4, LONGEST_CHAIN + 1))
    elif kind < difficulty.beyond:
        count = int(rng.integers(2, 10))
        powers = int(rng.integers(1, 3))
    else:
        count = 1 + int(rng.random() ** difficulty.tilt * difficulty.longest)
    cumulative = np.cumsum(difficulty.weights)
    draws = rng.random(count) * cumulative[-1]
    kinds: list[int] = np.asarray(np.digitize(draws, cumulative)).tolist()
    operators = [OPERATORS[k] for k in kinds]
    for place in rng.permutation(np.arange(count))[:powers]:
        operators[place] = "^"
    steps = [Step(o, _operand(o, rng.random(), difficulty)) for o in operators]
    return format_prompt(int(rng.integers(1, MODULUS)), steps)


def generate_tasks(
    n: int, seed: int, *, difficulty: Difficulty = ORDINARY, side: Side = "held_out"
) -> list[Task]:
    """`n` tasks with distinct prompts; the same arguments give the same tasks.

    Args:
        n: how many tasks.
        seed: seed of the generator, a non-negative integer.
        difficulty: the mixture the problems are drawn from.
        side: ``"held_out"`` draws only prompts that training never sees, ``"training"`` only the
            others, ``"any"`` both.
    """
    if n < 0:
        raise ValueError(f"n must not be negative, got {n}")
    if side not in ("held_out", "training", "any"):
        raise ValueError(f"side must be 'held_out', 'training' or 'any', got {side!r}")
    rng = np.random.default_rng(seed)
    prompts: dict[str, None] = {}
    misses = 0
    while len(prompts) < n:
        prompt = draw_prompt(rng, difficulty)
        if prompt in prompts or (side != "any" and is_held_out(prompt) != (side == "held_out")):
            misses += 1
            if misses > 100_000:
                raise ValueError(f"only {len(prompts)} of {n} distinct prompts found: {difficulty}")
            continue
        misses = 0
        prompts[prompt] = None
    return [make_task(prompt) for prompt in prompts]


def split_tasks(
    n_calibration: int, n_evaluation: int, seed: int, *, difficulty: Difficulty = ORDINARY
) -> tuple[list[Task], list[Task]]:
    """Calibration and evaluation tasks, no prompt in both, none ever trained on."""
    if min(n_calibration, n_evaluation) < 0:
        raise ValueError(f"counts must not be negative, got {n_calibration} and {n_evaluation}")
    tasks = generate_tasks(n_calibration + n_evaluation, seed, difficulty=difficulty)
    return tasks[:n_calibration], tasks[n_calibration:]


def worked_solution(task: Task | str, rng: np.random.Generator) -> str:
    """A right solution of a task (or prompt), with a random share of its steps checked."""
    value, steps = parse_prompt(task if isinstance(task, str) else task.prompt)
    shares = np.cumsum([share for _, share, _ in MANNERS])
    pick = int(np.searchsorted(shares[:-1], rng.random(), side="right"))
    manner, _, checked = MANNERS[pick]
    words = [manner]
    checks = rng.random(len(steps)) < checked
    for i, (step, check) in enumerate(zip(steps, checks, strict=True), 1):
        result = apply(value, step)
        words += [f"s{i}", str(value), step.operator, str(step.operand), "="]
        if step.operator == "x":
            words += [str(value * k % MODULUS) for k in range(2, step.operand)]
        words.append(str(result))
        if check:
            words += ["check", *_check(value, step, result)]
        value = result
    return " ".join([*words, ANSWER_MARK, str(value)])


def is_correct(task: Task, text: str, *, whole: bool = True) -> bool:
    """Whether a generated text ends in the right answer.

    The word after the last ``####`` must be the answer exactly; a text cut before it is wrong.

    Args:
        task: the task the text is for.
        text: what the model generated, without the prompt.
        whole: whether the last word of the text is known to be whole. True where a number is one
            token, as with the shipped reasoner, and where the model stopped by itself. For other
            models pass False if the text was cut at its token limit: ``#### 1`` may then be the
            beginning of 17, and counts only if something follows it.
    """
    found = list(_ANSWER.finditer(text))
    if not found:
        return False
    last = found[-1]
    if last[1] is None or (not whole and last.end() == len(text)):
        return False
    return last[1].removesuffix("</s>") == task.answer


def vocabulary() -> list[str]:
    """All words that prompts and solutions are made of."""
    words = ["mod", ":", "?", "=", "check", ANSWER_MARK, *OPERATORS]
    words += [manner for manner, _, _ in MANNERS]
    words += [f"s{i}" for i in range(1, LONGEST_CHAIN + 1)]
    return words + [str(k) for k in range(MODULUS + 1)]


def _operand(operator: str, draw: float, difficulty: Difficulty) -> int:
    """The operand that a uniform draw in [0, 1) stands for."""
    choices = _OPERANDS[operator]
    usable = len(choices) if operator == "x" else math.ceil(difficulty.reach * len(choices))
    return choices[int(draw**difficulty.skew * usable)]


def _check(value: int, step: Step, result: int) -> list[str]:
    """The words of a check: the inverse where there is an easy one, else the step once more."""
    inverse = {"+": "-", "-": "+"}.get(step.operator)
    if inverse is not None:
        return [str(result), inverse, str(step.operand), "=", str(value)]
    return [str(value), step.operator, str(step.operand), "=", str(result)]


def _digest(prompt: str) -> int:
    """A 64-bit digest of a prompt, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest(), "big")
