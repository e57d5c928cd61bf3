"""Programs and solutions in files, without pickle: `save` and `load`.

docs/files.md has the format. What is written is read back before it is written, so that no file is
made that would not load; what is read is checked, so that an edited file gives an error that says
where, not an answer that is wrong.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from clearopt import __version__
from clearopt.errors import DeclarationError
from clearopt.files.archive import FORMAT, VERSION, Archive, file_path, read, write
from clearopt.files.program import program_parts, read_program
from clearopt.files.solution import read_solution, solution_parts
from clearopt.prices import ByName
from clearopt.problem import Problem
from clearopt.program import Program
from clearopt.solution import Solution

_CONTENTS = ("problem", "solution")


def save(what: Problem | Program | Solution, path: str | os.PathLike[str]) -> None:
    """Write a problem, a program or a solution to a file.

    Args:
        what: a `Problem` (its parameters as they are now), a `Program`, or a `Solution` (which
            takes its program along).
        path: ends in .npz; a file that is there already is replaced.

    Raises:
        DeclarationError: something in it cannot be kept (a function, a label that is not plain
            data), or nothing can be written there.
    """
    if isinstance(what, Problem):
        save_program(what.program, path)
    elif isinstance(what, Program):
        save_program(what, path)
    elif isinstance(what, Solution):
        save_solution(what, path)
    else:
        raise DeclarationError(
            f"save({type(what).__name__}, ...): expected a Problem, a Program or a Solution"
        )


def load(path: str | os.PathLike[str]) -> Problem | Solution:
    """The problem or the solution in a file that `save` wrote.

    A problem comes back compiled, without its expressions: it solves and explains itself.

    Raises:
        DeclarationError: no such file, not one of clearopt's, damaged, edited into a
            contradiction, or written by a newer clearopt.
    """
    archive = read(path)
    if archive.one_of("content", _CONTENTS) == "solution":
        return read_solution(archive)
    return Problem.from_program(read_program(archive))


def save_program(program: Program, path: str | os.PathLike[str]) -> None:
    """Write a program to a file; as `save`."""
    if not isinstance(program, Program):
        raise DeclarationError(f"save_program({type(program).__name__}, ...): expected a Program")
    where = file_path(path)
    header, arrays = program_parts(program)
    header = _opening("problem") | header
    read_program(Archive("this program cannot be saved", header, arrays))
    write(where, header, arrays)


def load_program(path: str | os.PathLike[str]) -> Program:
    """The program in a file that holds a problem; as `load`."""
    archive = read(path)
    if archive.one_of("content", _CONTENTS) != "problem":
        archive.fail("this file holds a solution: use load_solution, whose result has .program")
    return read_program(archive)


def save_solution(solution: Solution, path: str | os.PathLike[str]) -> None:
    """Write a solution and its program to a file; as `save`.

    Of its statistics those are kept that are plain data.
    """
    if not isinstance(solution, Solution):
        raise DeclarationError(
            f"save_solution({type(solution).__name__}, ...): expected a Solution"
        )
    where = file_path(path)
    program_header, arrays = program_parts(solution.program)
    header, more = solution_parts(solution)
    header = _opening("solution") | program_header | {"solution": header}
    arrays |= more
    read_solution(Archive("this solution cannot be saved", header, arrays))
    write(where, header, arrays)


def load_solution(path: str | os.PathLike[str]) -> Solution:
    """The solution in a file, checked against its program; as `load`."""
    archive = read(path)
    if archive.one_of("content", _CONTENTS) != "solution":
        archive.fail("this file holds a problem: use load_program, or clearopt.load and solve it")
    return read_solution(archive)


def save_answer(solution: Solution, path: str | os.PathLike[str]) -> None:
    """Write a solution without its program, for `load_answer` where that is at hand.

    Unlike `save_solution` it takes any program: prices by name, whose labels may be anything, are
    left out and made anew when it is read.
    """
    header, arrays = solution_parts(replace(solution).stating(ByName(), ByName()))
    write(file_path(path), _opening("answer") | {"solution": header}, arrays)


def load_answer(path: str | os.PathLike[str], program: Program) -> Solution:
    """The solution that `save_answer` wrote, checked against `program`.

    Raises:
        DeclarationError: as `load`; also where the program contradicts the solution.
    """
    archive = read(path)
    archive.one_of("content", ("answer",))
    return replace(read_solution(archive, program))  # whose prices are made when they are read


def _opening(content: str) -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, "content": content, "clearopt": __version__}
