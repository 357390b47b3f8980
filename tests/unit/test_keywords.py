"""Keywords that functions share: one declaration gives signature, documentation, defaults and refusals."""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import numpy as np
import pytest

import onnxq
from onnxq.api.plan import explain
from onnxq.api.quantize import QuantizeKeywords
from onnxq.calibration.runner import CollectKeywords, CollectOptions
from onnxq.compat import quantize_dynamic, quantize_static
from onnxq.data.inputs import Layout
from onnxq.errors import ConfigError
from onnxq.keywords import Keyword, check_type, complete, defaults_of, keywords_of, takes
from onnxq.modes.arguments import check_mode
from onnxq.pipeline.reading import Reading
from onnxq.planning.options import PlanOptions
from onnxq.planning.weight_form import WeightForm
from onnxq.report.gates import Gates
from onnxq.search.budget import budget_from

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Reads(TypedDict, total=False):
    size: Annotated[int | None, Keyword(None, "Samples " + "and samples " * 20 + "at once.")]


class Both(Reads, total=False):
    layout: Annotated[Layout, Keyword("nchw", "Where channels are.")]


@takes(Both)
def function(model: str, *, target: str = "cpu", **options: Unpack[Both]) -> dict[str, Any]:
    """Do it.

    Args:
        model: The model.
        options: How data is
            read.
        target: The target.

    Raises:
        ConfigError: options: are wrong.
    """
    return dict(options)


def functions() -> Iterator[Callable[..., Any]]:
    """Every function that takes groups."""
    yield explain
    for name in onnxq.__all__:
        if hasattr(thing := getattr(onnxq, name), "__signature__"):
            yield thing


FUNCTIONS = list(functions())


def group_of(wrapped: Callable[..., Any]) -> type:
    """The group that a function says to take."""
    name = re.fullmatch(r"Unpack\[(\w+)\]", wrapped.__annotations__["options"])
    assert name is not None
    group: type = getattr(importlib.import_module(wrapped.__module__), name[1])
    return group


def test_what_was_given_is_handed_on_and_nothing_else() -> None:
    assert function("m", target="x", size=3) == {"size": 3}
    assert function(model="m") == {}


def test_the_signature_shows_every_keyword() -> None:
    assert str(inspect.signature(function)) == (
        "(model: 'str', *, target: 'str' = 'cpu', size: 'int | None' = None, layout: 'Layout' = 'nchw') "
        "-> 'dict[str, Any]'"
    )


def test_the_docstring_explains_every_keyword_in_place_of_options() -> None:
    lines = str(function.__doc__).splitlines()
    start, end = lines.index("    model: The model."), lines.index("    target: The target.")
    size, *more, layout = lines[start + 1 : end]
    assert size.startswith("    size: Samples and samples")
    assert len(more) == 2
    assert all(line.startswith("        ") and len(line) <= 116 for line in more)
    assert layout == "    layout: Where channels are."
    assert lines[-1] == "    ConfigError: options: are wrong."


def test_values_of_a_group_are_complete_and_its_own() -> None:
    given: Both = {"size": None, "layout": "nhwc"}
    assert complete(Reads, given) == {"size": None}
    assert complete(Both, {"size": 2}) == {"size": 2, "layout": "nchw"}


@pytest.mark.parametrize(
    ("given", "meant"),
    [("siz", "did you mean 'size'?"), ("targt", "did you mean 'target'?"), ("zzz", "help(onnxq.function) lists")],
)
def test_other_keywords_are_refused(given: str, meant: str) -> None:
    with pytest.raises(TypeError) as error:
        function("m", **{given: 1})
    assert str(error.value).startswith(f"function() got an unexpected keyword argument {given!r}; {meant}")


@pytest.mark.parametrize(
    ("taker", "given", "meant"),
    [
        (onnxq.Data, "shufle", "Data() got an unexpected keyword argument 'shufle'; did you mean 'shuffle'?"),
        (onnxq.Data, "zzz", "Data() got an unexpected keyword argument 'zzz'; it takes source, shuffle, state,"),
        (
            onnxq.ImageOptions,
            "colour",
            "ImageOptions() got an unexpected keyword argument 'colour'; did you mean 'color'?",
        ),
        (onnxq.Override, "methods", "Override() got an unexpected keyword argument 'methods'; did you mean 'method'?"),
        (
            quantize_static,
            "per_chanel",
            "quantize_static() got an unexpected keyword argument 'per_chanel'; did you mean",
        ),
        (quantize_dynamic, "weight_typ", "quantize_dynamic() got an unexpected keyword argument 'weight_typ'; did you"),
    ],
)
def test_other_keywords_of_classes_and_of_compat_are_refused(taker: Any, given: str, meant: str) -> None:
    with pytest.raises(TypeError) as error:
        taker(**{given: 1})
    assert str(error.value).startswith(meant)


def test_classes_that_guess_are_what_they_were() -> None:
    assert str(inspect.signature(onnxq.Data)).startswith("(source: 'Any', shuffle: 'int | None' = None, ")
    assert onnxq.ImageOptions(color="bgr") == onnxq.ImageOptions(color="bgr")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'source'"):
        onnxq.Data()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("limit", "10", "a whole number or None"),
        ("limit", 2.5, "a whole number or None"),
        ("limit", True, "a whole number or None"),
        ("batch_size", "2", "a whole number or None"),
        ("min_sqnr", "30 dB", "a number or None"),
        ("tune_seconds", False, "a number"),
        ("exclude", 3, "a string or a sequence of strings"),
        ("exclude", ["a", None], "a string or a sequence of strings"),
        ("providers", [3], "a sequence of strings or a string or None"),
        ("providers", b"cpu", "a sequence of strings or a string or None"),
        ("recover", None, "a string or a sequence of strings"),
        ("images", {"mean": 0}, "ImageOptions or a string or None"),
        ("stats", 3, "StatsTable or a string or a path or None"),
        ("nonfinite", "skip", "'error' or 'ignore'"),
        ("search", "no", "True or False"),
        ("force", "no", "True or False"),
        ("progress", 3, "a function or None"),
        ("metric", 3, "a string or a function or None"),
        ("overrides", 3, "Override or a dict or a sequence"),
        ("exclude_between", 3, "a sequence"),
        ("output", 3, "a string or a path or None"),
    ],
)
def test_values_of_another_type_are_refused(name: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        onnxq.quantize("none.onnx", **{name: value})
    assert error.value.message == f"{name} is {value!r}, expected {expected}"
    assert f"{name}=" in str(error.value.hint)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (np.int64(3), int | None),
        (np.float32(0.5), float),
        (3, float),
        (np.bool_(True), bool),
        (Path("x"), str | os.PathLike[str]),
        ({"a", "b"}, str | Sequence[str]),
        (object(), Any),
        (object(), int | tuple[int, int]),
        (len, Callable[[str], int] | None),
        ([1], Sequence[int]),
    ],
)
def test_values_of_the_type_are_taken(value: object, hint: Any) -> None:
    check_type("x", value, hint)


@pytest.mark.parametrize("given", [{"threads": -1}, {"threads": 0}, {"memory_limit": -3}, {"memory_limit": "much"}])
def test_impossible_numbers_are_refused(given: CollectKeywords) -> None:
    (name,) = given
    with pytest.raises(ConfigError, match=f"{name} is .*, expected"):
        CollectOptions.from_keywords(given)


def test_a_memory_limit_is_bytes_or_a_size() -> None:
    for limit in (10**9, "1GB", "1 gb", "1000000000"):
        assert CollectOptions.from_keywords({"memory_limit": limit}).memory_limit == 10**9


@pytest.mark.parametrize("public", FUNCTIONS, ids=lambda f: f.__name__)
def test_public_functions_refuse_misspelt_keywords(public: Callable[..., Any]) -> None:
    last = list(inspect.signature(public).parameters)[-1]
    with pytest.raises(TypeError, match=rf"^{public.__name__}\(\) got an .* '{last}_'; did you mean '{last}'\?$"):
        public("none.onnx", **{f"{last}_": None})


def test_all_that_read_data_take_groups() -> None:
    reading = {f.__name__ for f in FUNCTIONS if "batch_size" in inspect.signature(f).parameters}
    assert reading == {
        *("quantize", "calibrate", "evaluate", "sensitivity", "verify", "preview", "build_engine", "channel_ranges"),
    }


@pytest.mark.parametrize("public", FUNCTIONS, ids=lambda f: f.__name__)
def test_the_group_of_the_annotation_is_the_one_that_is_taken(public: Any) -> None:
    own = inspect.signature(public.__wrapped__).parameters
    shown = inspect.signature(public).parameters
    assert [*list(own)[:-1], *keywords_of(group_of(public.__wrapped__))] == list(shown)


@pytest.mark.parametrize("public", [f for f in FUNCTIONS if f is not explain], ids=lambda f: f.__name__)
def test_the_docstring_in_the_source_names_every_keyword(public: Any) -> None:
    """Editors show that one."""
    item = re.search(r"^ {8}options: .*(\n {12}.*)*", public.__wrapped__.__doc__, re.MULTILINE)
    assert item is not None
    named = set(re.findall(r"\w+", item[0]))
    assert set(keywords_of(group_of(public.__wrapped__))) <= named


def test_no_keywords_give_the_defaults_of_what_is_made_of_them() -> None:
    assert Reading.of({}) == Reading()
    assert PlanOptions.of({}) == PlanOptions()
    assert WeightForm.of({}) == WeightForm()
    assert CollectOptions.from_keywords({}) == CollectOptions()
    assert Gates.of({}, min_sqnr=None) == Gates()
    assert budget_from({}) is None


def test_types_are_part_of_a_plan_where_asked() -> None:
    assert PlanOptions.of({"activations": "fp8", "weights": "fp8"}).activations == "fp8"
    assert PlanOptions.of({"activations": "fp8", "weights": "fp8"}, with_types=False) == PlanOptions()


FORM = {"block_size", "symmetric", "rounding", "weight_format", "accuracy_level"}
CALIBRATION = {
    *("activations", "method", "percentile", "momentum", "stats", "tensorrt_cache", "recover", "tune", "tune_seconds"),
    *("float_type", "nonfinite", "full_histogram", "memory_limit"),
}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("static", FORM), ("dynamic", FORM | CALIBRATION), ("weight-only", CALIBRATION | {"min_int8"})],
)
def test_keywords_without_a_meaning_in_a_mode_are_refused(mode: str, expected: set[str]) -> None:
    refused = set()
    for name, default in defaults_of(QuantizeKeywords).items():
        check_mode(mode, QuantizeKeywords, {name: default})
        try:
            check_mode(mode, QuantizeKeywords, {name: "int8" if name == "weights" else object()})
        except ConfigError as error:
            assert error.message.startswith(f"{name}=")
            refused.add(name)
    assert refused == expected


def test_a_value_that_is_no_plain_one_is_not_printed() -> None:
    with pytest.raises(ConfigError) as caught:
        check_mode("dynamic", QuantizeKeywords, {"stats": object()})
    assert caught.value.message == "stats= (--stats) has no meaning in mode 'dynamic'"
    with pytest.raises(ConfigError, match=r"^method='mse' \(--method\) has no meaning"):
        check_mode("dynamic", QuantizeKeywords, {"method": "mse"})
