"""Options in messages: as argument with its flag, and the flag first on the command line."""

from __future__ import annotations

import pytest

from onnxq.api.quantize import QuantizeKeywords
from onnxq.cli.main import cli
from onnxq.keywords import defaults_of
from onnxq.wording.flags import flag_of, flags_first


@pytest.mark.parametrize("argument", defaults_of(QuantizeKeywords))
def test_every_argument_has_a_flag(argument: str) -> None:
    flags = {flag for parameter in cli.commands["quantize"].params for flag in parameter.opts}
    assert flag_of(argument) in flags


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("leave tune= (--tune) out", "leave --tune (tune=) out"),
        ("check images=, layout= (--images, --layout)", "check --images, --layout (images=, layout=)"),
        ("target='a', 'b' or 'c' (--target)", "--target (target='a', 'b' or 'c')"),
        ("images=ImageOptions(mean=...) (--mean and --std)", "--mean and --std (images=ImageOptions(mean=...))"),
        ("exclude=(...) (--exclude): no node", "--exclude (exclude=(...)): no node"),
        ("as x = 3 (see docs) and (--report)", "as x = 3 (see docs) and (--report)"),
        ("onnxq.verify (onnxq verify)", "onnxq.verify (onnxq verify)"),
    ],
)  # fmt: skip
def test_the_flag_comes_first(text: str, shown: str) -> None:
    assert flags_first(text) == shown
