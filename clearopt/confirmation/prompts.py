"""How a task is put to a model: bare to one trained on such tasks, else with an example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from clearopt.confirmation.tasks import ANSWER_MARK, MODULUS, Step, Task, apply, format_prompt

if TYPE_CHECKING:
    from clearopt.serving import Engine

ANSWER_END = ("\nProblem:",)
"""What ends an answer to a prompt with an example: a model may go on to another problem."""


def speaks_tasks(engine: Engine, tasks: Sequence[Task]) -> bool:
    """Whether the model's tokenizer has one token a word of the tasks, as the reasoner's has."""
    counts = engine.count_tokens([task.prompt for task in tasks])
    return bool(np.array_equal(counts, [len(task.prompt.split()) for task in tasks]))


def prompt_texts(tasks: Sequence[Task], *, bare: bool) -> list[str]:
    """What is sent for each task."""
    if bare:
        return [task.prompt for task in tasks]
    introduction = (
        f"Work out a chain of steps, each on the result before it, modulo {MODULUS} (only the "
        f"remainder after division by {MODULUS} is kept). Write one step after the other, then "
        f"{ANSWER_MARK} and the final result.\n\n{worked_example()}\n\n"
    )
    return [f"{introduction}Problem: {task.prompt}\nSolution:" for task in tasks]


def worked_example() -> str:
    """A problem of two steps with its solution."""
    start, steps = MODULUS - 7, [Step("+", 9), Step("x", 4)]
    value, written = start, []
    for number, step in enumerate(steps, 1):
        result = apply(value, step)
        written.append(f"s{number} {value} {step.operator} {step.operand} = {result}")
        value = result
    solution = " ".join([*written, ANSWER_MARK, str(value)])
    return f"Problem: {format_prompt(start, steps)}\nSolution: {solution}"
