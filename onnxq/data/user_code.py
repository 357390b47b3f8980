"""Functions of Python files that the user names, `FILE.py:FUNCTION`: code that onnxq runs and did not bring."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnxq.errors import ConfigError

PYTHON = "python:"
"""May stand in front, as models and configurations of earlier versions have it."""


def names_function(given: str) -> bool:
    """Whether a text is a function of a file and not a name that onnxq knows.

    >>> names_function("mine.py:f"), names_function("python:mine.py:f"), names_function("top1")
    (True, True, False)
    """
    return given.startswith(PYTHON) or given.rpartition(":")[0].endswith(".py") or given.endswith(".py")


def function_from(given: str, *, what: str, argument: str) -> Callable[..., Any]:
    """The function that `given` names; its file is run.

    Args:
        given: "FILE.py:FUNCTION", or "python:FILE.py:FUNCTION".
        what: What it is called in messages, such as "metric".
        argument: How it is given, such as "metric= (--metric)".

    Raises:
        ConfigError: there is no such file or function, or the file cannot be run.
    """
    path, _, name = given.removeprefix(PYTHON).rpartition(":")
    where = f"{what} {given!r}"
    if not path or not name:
        raise ConfigError(
            "no file or no function is named",
            where=where,
            hint=f"write FILE.py:FUNCTION in {argument}",
        )
    if not Path(path).is_file():
        raise ConfigError(f"there is no file {path!r}", where=where, hint=f"check the path in {argument}")
    try:
        found = runpy.run_path(path).get(name)
    except Exception as error:
        raise ConfigError(
            f"the file cannot be run: {type(error).__name__}: {error}", where=where, hint="run it with python first"
        ) from error
    if not callable(found):
        raise ConfigError(f"the file defines no function {name!r}", where=where, hint=f"check {argument}")
    function: Callable[..., Any] = found
    return function
