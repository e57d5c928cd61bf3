import pytest

from clearopt.confirmation.prompts import ANSWER_END, prompt_texts, speaks_tasks, worked_example
from clearopt.confirmation.tasks import generate_tasks, is_correct, make_task


def test_a_bare_prompt_is_the_task_alone():
    tasks = generate_tasks(3, seed=0)
    assert prompt_texts(tasks, bare=True) == [task.prompt for task in tasks]


def test_other_models_get_an_example_that_is_right():
    problem, solution = worked_example().splitlines()
    task = make_task(problem.removeprefix("Problem: "))
    assert is_correct(task, solution)
    (text,) = prompt_texts(generate_tasks(1, seed=0), bare=False)
    assert worked_example() in text
    assert text.endswith("\nSolution:")
    assert ANSWER_END[0] in text


@pytest.mark.vllm
def test_the_reasoner_speaks_tasks(engine):
    tasks = generate_tasks(20, seed=0)
    assert speaks_tasks(engine, tasks)
