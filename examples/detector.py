"""A detector, quantized: do boxes stay where they are?

The model is a YOLOv8n at 320x320 (pip package nudenet), the photographs are those of scikit-image. Boxes of the int8
model are compared with boxes of the float model: found again, and by how much they overlap.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
from materials import GREEN, INK, PAPER, arguments, font, package_file
from PIL import Image, ImageDraw

import onnxq

SIDE = 320
SCORE, OVERLAP = 0.25, 0.45
"""A box counts from this score on; of boxes that overlap more than this the best is kept."""
CALIBRATION = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "camera.png")
ORANGE = (215, 95, 20)


def photograph(name: str) -> Image.Image:
    path = package_file("skimage", f"data/{name}", install="scikit-image")
    return Image.open(path).convert("RGB")


def crops(names: tuple[str, ...], folder: Path, count: int, seed: int) -> Path:
    """Square pieces of photographs, some mirrored, as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        photo = photograph(names[number % len(names)])
        edge = int(min(photo.size) * rng.uniform(0.5, 1.0))
        x, y = (int(rng.integers(0, extent - edge + 1)) for extent in photo.size)
        piece = photo.crop((x, y, x + edge, y + edge)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else piece
        piece.save(folder / f"{number:03}.png")
    return folder


def prepared(picture: Image.Image) -> np.ndarray:
    """What images="yolo" makes of a square picture: RGB, 0..1; float32 [1, 3, 320, 320]."""
    return np.asarray(picture.resize((SIDE, SIDE)), np.float32).transpose(2, 0, 1)[None] / 255


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box [4] with others [n, 4]; left, top, right, bottom."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    return both / (areas - both)


def boxes(output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [n, 4] and scores [n] of one picture, the best first, from YOLO's output [4 + classes, places]."""
    scores = output[4:].max(axis=0)
    at = np.argsort(-scores)[: (scores > SCORE).sum()]
    middle, size = output[:2, at].T, output[2:4, at].T
    found, scores = np.hstack([middle - size / 2, middle + size / 2]), scores[at]
    kept: list[int] = []
    for number in range(len(found)):
        if not kept or overlaps(found[number], found[kept]).max() < OVERLAP:
            kept.append(number)
    return found[kept], scores[kept]


def compare(float_boxes: list[np.ndarray], int8_boxes: list[np.ndarray]) -> dict[str, float]:
    """How many boxes of the float model are found again, and how well they overlap."""
    best = [
        overlaps(a, bs).max() if len(bs) else 0.0 for one, bs in zip(float_boxes, int8_boxes, strict=True) for a in one
    ]
    again = [share for share in best if share > 0.5]
    extra = sum(map(len, int8_boxes)) - len(again)
    return {
        "boxes": len(best),
        "found again": len(again),
        "extra": extra,
        "mean overlap": round(float(np.mean(again)), 4),
    }


def draw_boxes(model: Path, int8: Path, picture: Path) -> None:
    """One photograph with the boxes of both models side by side."""
    photo = photograph("astronaut.png")
    feed, shown = {"images": prepared(photo)}, 400
    sheet = Image.new("RGB", (2 * shown + 60, shown + 70), PAPER)
    draw = ImageDraw.Draw(sheet)
    for at, (title, path, colour) in enumerate((("float", model, ORANGE), ("int8", int8, GREEN))):
        x = 20 + at * (shown + 20)
        sheet.paste(photo.resize((shown, shown)), (x, 50))
        found, scores = boxes(ort.InferenceSession(str(path)).run(None, feed)[0][0])
        draw.text((x, 14), f"{title}, {path.stat().st_size / 1e6:.1f} MB", font=font(20), fill=INK)
        for box, score in zip(found * shown / SIDE, scores, strict=True):
            left, top, right, bottom = (float(v) for v in box)
            draw.rectangle((x + left, 50 + top, x + right, 50 + bottom), outline=colour, width=3)
            draw.rectangle((x + left, 30 + top, x + left + 46, 50 + top), fill=colour)
            draw.text((x + left + 5, 31 + top), f"{score:.2f}", font=font(16), fill=PAPER)
    sheet.save(picture)


def main() -> None:
    folder, part = arguments("detector")
    model = package_file("nudenet", "320n.onnx", install="nudenet==3.4.2")
    int8 = folder / "detector.int8.onnx"
    calibration = crops(CALIBRATION, folder / "calibration", 48 // part, seed=1)
    test = crops(("astronaut.png",), folder / "test", 40 // part, seed=2)

    # recover="fast", the default, takes a minute more here and changes little for boxes.
    result = onnxq.quantize(
        model, calibration, images="yolo", method="max", recover="bias", output=int8, force=True, details=part == 1
    )
    print(result.report.to_text())
    (folder / "report.html").write_text(result.report.to_html(), encoding="utf-8")

    checked = onnxq.verify(model, int8, test, images="yolo")
    print(f"verified on {checked.data.held_out_samples} other pictures: {'PASSED' if checked else 'FAILED'}\n")

    sessions = [ort.InferenceSession(str(path)) for path in (model, int8)]
    feeds = [{"images": prepared(Image.open(path))} for path in sorted(test.glob("*.png"))]
    found = [[boxes(session.run(None, feed)[0][0])[0] for feed in feeds] for session in sessions]
    scores = compare(*found)
    print(", ".join(f"{name}: {value:g}" for name, value in scores.items()))
    (folder / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    draw_boxes(model, int8, folder / "detector.png")
    print(f"written to {folder}: detector.png, report.html, detector.int8.onnx")


if __name__ == "__main__":
    main()
