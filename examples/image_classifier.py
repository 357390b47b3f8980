"""An image classifier, quantized: which way up is a line of text?

The model is PP-OCR's angle classifier (pip package rapidocr-onnxruntime), a MobileNetV3. Its data are folders of
pictures, one for each class, as for any classifier.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from materials import GREEN, INK, PAPER, RED, arguments, font, package_file, text_line
from PIL import Image, ImageDraw

import onnxq

CLASSES = ("0 degrees", "180 degrees")
WIDTH, HEIGHT = 192, 48


def draw_folders(folder: Path, count: int, seed: int) -> Path:
    """`count` lines of text, half of them upside down, in a folder for each class."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        line, _ = text_line(rng, HEIGHT, wear=2.5)
        turned = number % 2
        place = folder / CLASSES[turned].replace(" ", "-")
        place.mkdir(parents=True, exist_ok=True)
        line.rotate(180 * turned).save(place / f"{number:03}.png")
    return folder


def prepared(picture: Image.Image) -> np.ndarray:
    """What images="paddleocr" makes of a picture: BGR, -1..1, padded on the right; float32 [1, 3, 48, 192]."""
    squeezed = picture.resize((min(picture.width, WIDTH), HEIGHT), Image.Resampling.BILINEAR)
    pixels = np.asarray(squeezed, np.float32)[..., ::-1] / 127.5 - 1
    return np.pad(pixels.transpose(2, 0, 1), ((0, 0), (0, 0), (0, WIDTH - squeezed.width)))[None]


def draw_answers(model: Path, int8: Path, test: Path, picture: Path) -> None:
    """Lines of the test set with both models' answers; where they differ comes first."""
    sessions = [ort.InferenceSession(str(path)) for path in (model, int8)]
    rows = []
    for path in sorted(test.rglob("*.png"), key=lambda path: path.name):
        line = Image.open(path)
        shares = [session.run(None, {"x": prepared(line)})[0][0] for session in sessions]
        rows.append((line, CLASSES.index(path.parent.name.replace("-", " ")), shares))
    rows.sort(key=lambda row: row[2][0].argmax() == row[2][1].argmax())
    sheet = Image.new("RGB", (860, 40 + 62 * 10), PAPER)
    draw = ImageDraw.Draw(sheet)
    for x, title in ((20, "picture"), (480, "float"), (670, "int8")):
        draw.text((x, 10), title, font=font(18), fill=INK)
    for at, (line, truth, shares) in enumerate(rows[:10]):
        y = 44 + 62 * at
        sheet.paste(line.crop((0, 0, min(line.width, 440), HEIGHT)), (20, y))
        for x, share in zip((480, 670), shares, strict=True):
            best = int(share.argmax())
            text = f"{CLASSES[best].split()[0]}\N{DEGREE SIGN}  {100 * share[best]:.1f} %"
            draw.text((x, y + 12), text, font=font(20), fill=GREEN if best == truth else RED)
    sheet.save(picture)


def main() -> None:
    folder, part = arguments("image_classifier")
    file = "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
    model = package_file("rapidocr_onnxruntime", file, install="rapidocr-onnxruntime==1.4.4")
    int8 = folder / "classifier.int8.onnx"
    calibration = draw_folders(folder / "calibration", 128 // part, seed=1)
    test = draw_folders(folder / "test", 400 // part, seed=2)
    pictures = onnxq.ImageOptions(mean=(0.5,), std=(0.5,), color="bgr", resize="height", size=(HEIGHT, WIDTH))

    result = onnxq.quantize(model, calibration, images=pictures, output=int8, force=True, details=part == 1)
    print(result.report.to_text())
    (folder / "report.html").write_text(result.report.to_html(), encoding="utf-8")

    checked = onnxq.verify(model, int8, test, images=pictures, limit=64)
    print(f"verified on {checked.data.held_out_samples} other pictures: {'PASSED' if checked else 'FAILED'}\n")

    scores = onnxq.evaluate(model, int8, test, images=pictures, labels="folders", max_drop=1.0)
    print(scores.to_text())
    (folder / "scores.json").write_text(scores.to_json(), encoding="utf-8")
    draw_answers(model, int8, test, folder / "image_classifier.png")
    print(f"written to {folder}: image_classifier.png, report.html, classifier.int8.onnx")


if __name__ == "__main__":
    main()
