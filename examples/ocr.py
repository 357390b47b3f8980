"""An OCR recogniser, quantized: does it read the same?

The model is PP-OCRv4's recogniser (pip package rapidocr-onnxruntime). Lines of text are drawn, so what they say is
known: scored is the share of lines that are read without a mistake.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from materials import GREEN, GREY, INK, PAPER, RED, arguments, font, package_file, text_line
from PIL import Image, ImageDraw

import onnxq

HEIGHT = 48


def draw_lines(folder: Path, count: int, seed: int) -> Path:
    """`count` lines of text as PNG files, and labels.csv beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with (folder.parent / f"{folder.name}.csv").open("w", encoding="utf-8", newline="") as table:
        for number in range(count):
            line, text = text_line(rng, HEIGHT, wear=1.6)
            line.save(folder / f"{number:03}.png")
            csv.writer(table).writerow((f"{number:03}.png", text))
    return folder


def prepared(picture: Image.Image) -> np.ndarray:
    """What images="paddleocr" makes of a line: BGR, -1..1; float32 [1, 3, 48, width]."""
    return (np.asarray(picture, np.float32)[..., ::-1] / 127.5 - 1).transpose(2, 0, 1)[None]


class Reader:
    """Greedy CTC: the best character of each step, without repeats and blanks."""

    def __init__(self, model: Path) -> None:
        meta = {p.key: p.value for p in onnx.load(model, load_external_data=False).metadata_props}
        self.alphabet = ["", *meta["character"].split("\n"), " "]  # 0 is the blank

    def __call__(self, outputs: dict[str, np.ndarray]) -> Iterator[str]:
        for best in next(iter(outputs.values())).argmax(-1):
            fresh = np.r_[True, best[1:] != best[:-1]]
            yield "".join(self.alphabet[i] for i in best[fresh]).strip()


def draw_readings(model: Path, int8: Path, test: Path, reader: Reader, picture: Path) -> None:
    """Lines with what both models read; where they differ comes first."""
    sessions = [ort.InferenceSession(str(path)) for path in (model, int8)]
    labels = test.parent / f"{test.name}.csv"
    with labels.open(encoding="utf-8", newline="") as table:
        truth = dict(csv.reader(table))
    rows = []
    for name, text in truth.items():
        line = Image.open(test / name)
        readings = [next(reader({"y": s.run(None, {s.get_inputs()[0].name: prepared(line)})[0]})) for s in sessions]
        rows.append((line, text, readings))
    rows.sort(key=lambda row: (row[2][0] == row[2][1], row[2][0] == row[1]))
    sheet = Image.new("RGB", (1060, 40 + 62 * 10), PAPER)
    draw = ImageDraw.Draw(sheet)
    for x, title in ((20, "picture"), (430, "float"), (750, "int8")):
        draw.text((x, 10), title, font=font(18), fill=INK)
    for at, (line, text, readings) in enumerate([*rows[:5], *rows[-5:]]):
        y = 44 + 62 * at
        sheet.paste(line.crop((0, 0, min(line.width, 390), HEIGHT)), (20, y))
        for x, reading in zip((430, 750), readings, strict=True):
            draw.text((x, y + 10), reading or "(nothing)", font=font(22), fill=GREEN if reading == text else RED)
        draw.line((20, y + 55, 1040, y + 55), fill=GREY if at == 4 else (235, 236, 238))
    sheet.save(picture)


def main() -> None:
    folder, part = arguments("ocr")
    file = "models/ch_PP-OCRv4_rec_infer.onnx"
    model = package_file("rapidocr_onnxruntime", file, install="rapidocr-onnxruntime==1.4.4")
    int8 = folder / "recogniser.int8.onnx"
    calibration = draw_lines(folder / "calibration", 64 // part, seed=1)
    test = draw_lines(folder / "test", 200 // part, seed=2)
    reader = Reader(model)

    result = onnxq.quantize(model, calibration, images="paddleocr", output=int8, force=True, details=part == 1)
    print(result.report.to_text())
    (folder / "report.html").write_text(result.report.to_html(), encoding="utf-8")

    checked = onnxq.verify(model, int8, test, images="paddleocr", limit=32 // part)
    print(f"verified on {checked.data.held_out_samples} other lines: {'PASSED' if checked else 'FAILED'}\n")

    labels = str(folder / "test.csv")
    most = 2.0 if part == 1 else None  # points; one line in a quarter of them is that much
    scores = onnxq.evaluate(model, int8, test, images="paddleocr", labels=labels, postprocess=reader, max_drop=most)
    print(scores.to_text())
    (folder / "scores.json").write_text(scores.to_json(), encoding="utf-8")
    draw_readings(model, int8, test, reader, folder / "ocr.png")
    print(f"written to {folder}: ocr.png, report.html, recogniser.int8.onnx")


if __name__ == "__main__":
    main()
