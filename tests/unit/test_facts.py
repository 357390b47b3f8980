"""What a run says of itself: how its data was read, as options of a command."""

from __future__ import annotations

from typing import Any

import pytest

from onnxq.cli.main import cli
from onnxq.data.description import Data
from onnxq.data.images import PRESETS, ImageOptions
from onnxq.pipeline.facts import reading_options, reasons_in_words

CASES: dict[str, tuple[Any, Any, Any]] = {
    "": ("photos/", None, None),
    "--images yolo": ("photos/", "yolo", None),
    "--images imagenet": ("photos/", PRESETS["imagenet"], None),
    "--layout nhwc --mean 0.5 --std 0.25,0.5,1 --color bgr --resize crop --crop-share 0.9 --image-size 48x320": (
        "photos/",
        ImageOptions(
            mean=(0.5,), std=(0.25, 0.5, 1.0), color="bgr", resize="crop", crop_share=0.9, size=(48, 320)
        ),
        "nhwc",
    ),
    "--preprocess 'my frames.py:frames' --state stateN=state": (
        Data("clips/", preprocess="my frames.py:frames", state={"stateN": "state"}), None, None
    ),
    "--tokenizer t.json --text-column a,b --max-length 64": (
        Data("texts.csv", tokenizer="t.json", text_column=("a", "b"), max_length=64, shuffle=3), None, None
    ),
    "--mean 0 --std 1": (iter(()), ImageOptions(), None),
}  # fmt: skip


@pytest.mark.parametrize("options", CASES)
def test_reading_options(options: str) -> None:
    data, images, layout = CASES[options]
    assert reading_options(data, images=images, layout=layout) == options


def test_they_are_options_of_the_commands_that_reports_name() -> None:
    named = {word.split()[0] for options in CASES for word in options.split("--")[1:]}
    for command in ("evaluate", "quantize", "verify", "sensitivity"):
        flags = {flag.removeprefix("--") for p in cli.commands[command].params for flag in p.opts}
        assert named <= flags


def test_a_reason_is_told_once() -> None:
    kept = {"a": "too large", "b": "an epsilon", "c": "too large", "d": "sizes", "e": "an integer"}
    assert reasons_in_words(kept, 2) == "too large ('a' and 1 more); an epsilon ('b'); ..."
    assert reasons_in_words({"a": "too large"}) == "too large ('a')"
