"""Rendered lines of text: words, prices, dates and codes in real fonts, with the blemishes of a photographed page.

The fonts come from pip packages, so the pixels do not depend on the machine's own fonts; without those packages
Pillow's built-in font is used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from tests.zoo.packages import package_file

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

FONT_FILES = (
    ("font_roboto", "files/Roboto-Regular.ttf"),
    ("font_roboto", "files/Roboto-Medium.ttf"),
    ("font_roboto", "files/Roboto-BoldItalic.ttf"),
    ("font_caladea", "files/Caladea-Regular.ttf"),
    ("font_caladea", "files/Caladea-Bold.ttf"),
    ("font_hanken_grotesk", "files/HankenGrotesk-Regular.otf"),
    ("font_hanken_grotesk", "files/HankenGrotesk-SemiBold.otf"),
    ("font_source_serif_pro", "files/SourceSerifPro-Regular.ttf"),
    ("font_source_serif_pro", "files/SourceSerifPro-It.ttf"),
)
WORDS = tuple(Path(__file__).with_name("words.txt").read_text(encoding="utf-8").split())


def random_text(rng: np.random.Generator) -> str:
    """One to three tokens: mostly words, in one of three cases, else a price, a date, a code or a number."""

    def word() -> str:
        text = str(rng.choice(WORDS))
        return (text, text.capitalize(), text.upper())[int(rng.choice(3, p=[0.55, 0.3, 0.15]))]

    kinds: tuple[Callable[[], str], ...] = (
        word,
        lambda: f"${rng.integers(1, 999)}.{rng.integers(0, 100):02d}",
        lambda: f"20{rng.integers(10, 30)}-{rng.integers(1, 13):02d}-{rng.integers(1, 29):02d}",
        lambda: "".join(rng.choice(list("ABCDEFGHKLMNPRSTUVWXYZ"), 2)) + str(rng.integers(1000, 99999)),
        lambda: str(rng.integers(10, 99999)),
    )
    count = int(rng.choice(3, p=[0.25, 0.45, 0.3])) + 1
    return " ".join(kinds[int(rng.choice(5, p=[0.7, 0.08, 0.06, 0.08, 0.08]))]() for _ in range(count))


@functools.lru_cache(maxsize=64)
def _font(index: int, size: int) -> Font:
    package, relative = FONT_FILES[index]
    path = package_file(package, relative)
    return ImageFont.truetype(str(path), size) if path else ImageFont.load_default(size)


def random_font(rng: np.random.Generator, size: int) -> Font:
    """One of the fonts, at a size in pixels."""
    return _font(int(rng.integers(len(FONT_FILES))), size)


def _colours(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Paper and ink, RGB; one line in five is light on dark."""
    paper = rng.integers(190, 256, 3)
    ink = np.clip(rng.integers(0, 90) + rng.integers(-25, 26, 3), 0, 255)
    if rng.random() < 0.2:
        paper, ink = 255 - paper, 255 - ink
    return tuple(int(v) for v in paper), tuple(int(v) for v in ink)


def blemish(image: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A little blur, less contrast, uneven light and noise; uint8 [H, W, 3]."""
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.8))))
    pixels: NDArray[np.floating[Any]] = np.asarray(image, np.float32)
    contrast = rng.uniform(0.65, 1.0)
    light = 1.0 + rng.uniform(-0.12, 0.12) * np.linspace(-1.0, 1.0, pixels.shape[1], dtype=np.float32)[None, :, None]
    pixels = ((pixels - 128.0) * contrast + 128.0) * light
    pixels = pixels + rng.normal(0.0, rng.uniform(0.0, 6.0), pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def text_line(rng: np.random.Generator, height: int = 48) -> tuple[NDArray[np.uint8], str]:
    """A line of text that fills its image, and the text; uint8 [height, W, 3], RGB."""
    text = random_text(rng)
    font = random_font(rng, int(rng.integers(26, 34)))
    paper, ink = _colours(rng)
    left, top, right, bottom = (int(v) for v in font.getbbox(text))
    pad_x, pad_y = int(rng.integers(4, 12)), int(rng.integers(3, 9))
    image = Image.new("RGB", (right - left + 2 * pad_x, bottom - top + 2 * pad_y), paper)
    ImageDraw.Draw(image).text((pad_x - left, pad_y - top), text, font=font, fill=ink)
    width = max(8, round(image.width * height / image.height))
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return blemish(image, rng), text


def text_page(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A page with lines of text of several sizes; uint8 [H, W, 3], RGB. `size` is (height, width)."""
    height, width = size
    paper, _ = _colours(rng)
    image = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(image)
    dark = sum(paper) < 3 * 128
    y = int(rng.integers(8, 40))
    while y < height - 40:
        points = int(rng.integers(14, 44))
        ink = tuple(int(v) for v in (255 - rng.integers(0, 90, 3) if dark else rng.integers(0, 90, 3)))
        x = int(rng.integers(5, max(6, width // 3)))
        draw.text((x, y), random_text(rng), font=random_font(rng, points), fill=ink)
        y += points + int(rng.integers(6, 40))
    return blemish(image, rng)
