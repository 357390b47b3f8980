"""Train ``wordlang_transformer``, which names the language of a single word, and export it to ONNX.

Data
    The "small" word lists of twelve European languages that ship inside the ``wordfreq`` package (Robyn
    Speer, https://github.com/rspeer/wordfreq). The lists may be redistributed under the Creative Commons
    Attribution-ShareAlike 4.0 licence; they build on Wikipedia, Google Books Ngrams
    (http://books.google.com/ngrams), OpenSubtitles (http://www.opensubtitles.org), ParaCrawl, the Leeds
    Internet Corpus and the SUBTLEX lists of Marc Brysbaert et al., which are freely available. The word
    excerpts written by this script, as token ids, are under the same licence.

    For each language the words of 4 to 16 letters are taken in order of frequency, keeping those at least ten
    times as frequent there as in any of the other eleven, up to 12000 words. 100 words of each language,
    drawn at random, form the test set; the rest are for training.

Model
    Characters are tokens: 0 pads, 1 starts the word, 2 is an unknown letter, the alphabet follows. Token and
    position embeddings, four pre-norm encoder layers of four-head self-attention and a GELU feed-forward
    network, a last LayerNorm, and a linear head on the first token. Batch and sequence length are dynamic, up
    to 17 tokens. The class names and the alphabet are in the metadata of the ONNX file.

Accuracy
    80.17 % top-1 on the 1200 test words (8.33 % by chance), measured with onnxruntime on the exported file.
    The weights are those after the last epoch: no checkpoint is chosen by its test accuracy.

Run
    pip install torch==2.13.0 onnx==1.23.2 onnxruntime==1.31.1 wordfreq==3.1.1 numpy
    python train_wordlang_transformer.py

    Writes ``wordlang_transformer.onnx``, ``wordlang_transformer.calib.npz`` and
    ``wordlang_transformer.test.npz`` beside this file, in about ten minutes on two CPU cores. Seeds are
    fixed, yet another torch build or thread count can change the weights slightly.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn
from torch.nn import functional
from wordfreq import get_frequency_dict

NAME = "wordlang_transformer"
SEED = 20240518
OPSET = 17
LANGUAGES = ("cs", "de", "en", "es", "fi", "fr", "hu", "it", "nl", "pl", "pt", "sv")
MIN_LETTERS = 4
MAX_LETTERS = 16
DOMINANCE = 10.0
WORDS_PER_LANGUAGE = 12000
TEST_PER_LANGUAGE = 100
CALIB_SAMPLES = 128

PAD, START, UNKNOWN = 0, 1, 2
FIRST_LETTER = 3
MAX_TOKENS = 1 + MAX_LETTERS

DIM = 96
HEADS = 4
HIDDEN = 192
LAYERS = 4
DROPOUT = 0.1
MASKED_SCORE = -10000.0

EPOCHS = 11
BATCH = 256
PEAK_LR = 2e-3
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.05


class SelfAttention(nn.Module):
    """Multi-head self-attention, its products written out so that they export as plain MatMul and Softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(DIM, DIM)
        self.key = nn.Linear(DIM, DIM)
        self.value = nn.Linear(DIM, DIM)
        self.out = nn.Linear(DIM, DIM)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        batch, length = x.shape[0], x.shape[1]
        split = (batch, length, HEADS, DIM // HEADS)
        query = self.query(x).view(split).transpose(1, 2)
        key = self.key(x).view(split).transpose(1, 2)
        value = self.value(x).view(split).transpose(1, 2)
        scores = query @ key.transpose(-2, -1) / math.sqrt(DIM // HEADS) + bias
        mixed = self.dropout(torch.softmax(scores, dim=-1)) @ value
        return self.out(mixed.transpose(1, 2).reshape(batch, length, DIM))


class EncoderLayer(nn.Module):
    """Pre-norm encoder layer: attention and a GELU feed-forward network, each with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(DIM)
        self.attention = SelfAttention()
        self.norm2 = nn.LayerNorm(DIM)
        self.up = nn.Linear(DIM, HIDDEN)
        self.down = nn.Linear(HIDDEN, DIM)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), bias))
        return x + self.dropout(self.down(functional.gelu(self.up(self.norm2(x)))))


class WordLanguage(nn.Module):
    """The whole classifier: ``[N, T]`` token ids and their 0/1 mask to ``[N, languages]`` logits."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, DIM)
        self.positions = nn.Parameter(torch.randn(1, MAX_TOKENS, DIM) * 0.02)
        self.dropout = nn.Dropout(DROPOUT)
        self.layers = nn.ModuleList(EncoderLayer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(DIM)
        self.head = nn.Linear(DIM, len(LANGUAGES))
        nn.init.normal_(self.tokens.weight, std=0.05)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        bias = (1.0 - attention_mask.to(torch.float32))[:, None, None, :] * MASKED_SCORE
        x = self.dropout(self.tokens(input_ids) + self.positions[:, : input_ids.shape[1]])
        for layer in self.layers:
            x = layer(x, bias)
        return self.head(self.norm(x[:, 0]))


@dataclass(frozen=True)
class Words:
    """Token ids ``[N, MAX_TOKENS]`` padded with zeros, and the index of each word's language."""

    ids: np.ndarray
    labels: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        return (self.ids != PAD).astype(np.int64)

    def feed(self) -> dict[str, np.ndarray]:
        """The model's inputs, by name."""
        return {"input_ids": self.ids, "attention_mask": self.mask}


def word_lists() -> list[list[str]]:
    """For each language its most frequent words, without those that other languages use about as much."""
    frequencies = [get_frequency_dict(language, "small") for language in LANGUAGES]
    lists: list[list[str]] = []
    for own in frequencies:
        others = [other for other in frequencies if other is not own]
        kept = [
            word
            for word, frequency in own.items()
            if MIN_LETTERS <= len(word) <= MAX_LETTERS
            and word.isalpha()
            and all(frequency >= DOMINANCE * other.get(word, 0.0) for other in others)
        ]
        kept.sort(key=lambda word: (-own[word], word))
        lists.append(kept[:WORDS_PER_LANGUAGE])
    return lists


def encode(pairs: list[tuple[str, int]], alphabet: str) -> Words:
    """Turn ``(word, label)`` pairs into padded token ids and labels."""
    index = {letter: FIRST_LETTER + place for place, letter in enumerate(alphabet)}
    ids = np.full((len(pairs), MAX_TOKENS), PAD, dtype=np.int64)
    for row, (word, _) in zip(ids, pairs, strict=True):
        row[0] = START
        row[1 : 1 + len(word)] = [index.get(letter, UNKNOWN) for letter in word]
    return Words(ids, np.array([label for _, label in pairs], dtype=np.int64))


def load_split() -> tuple[Words, Words, str]:
    """Return train words, test words, both shuffled, and the alphabet, which is that of the train words."""
    rng = np.random.default_rng(SEED)
    train: list[tuple[str, int]] = []
    test: list[tuple[str, int]] = []
    for label, words in enumerate(word_lists()):
        shuffled = [(words[place], label) for place in rng.permutation(len(words))]
        test += shuffled[:TEST_PER_LANGUAGE]
        train += shuffled[TEST_PER_LANGUAGE:]
    train = [train[place] for place in rng.permutation(len(train))]
    test = [test[place] for place in rng.permutation(len(test))]
    alphabet = "".join(sorted({letter for word, _ in train for letter in word}))
    return encode(train, alphabet), encode(test, alphabet), alphabet


def fit(model: nn.Module, words: Words, epochs: int) -> None:
    """Train ``model`` with AdamW and a one-cycle learning rate."""
    ids, mask, labels = (torch.from_numpy(array) for array in (words.ids, words.mask, words.labels))
    lengths = mask.sum(dim=1)
    steps = -(-len(ids) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=WEIGHT_DECAY)
    total = epochs * steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=total, pct_start=0.15)
    model.train()
    for epoch in range(epochs):
        started, loss_sum = time.perf_counter(), 0.0
        for batch in length_batches(lengths):
            longest = int(lengths[batch].max())
            logits = model(ids[batch, :longest], mask[batch, :longest])
            loss = functional.cross_entropy(logits, labels[batch], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            loss_sum += loss.item() * len(batch)
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1:3d}  loss {loss_sum / len(ids):.4f}  {seconds:.1f} s", flush=True)


def length_batches(lengths: Tensor) -> list[Tensor]:
    """Random batches of samples of about the same length, to save padding, in random order."""
    order = torch.argsort(lengths + torch.rand(len(lengths)) * 3.0)
    batches = order.split(BATCH)
    return [batches[place] for place in torch.randperm(len(batches)).tolist()]


def export(model: nn.Module, path: Path, alphabet: str) -> None:
    """Write ``model`` in inference mode, its batch and sequence length dynamic."""
    model.eval()
    example = torch.full((2, 9), FIRST_LETTER, dtype=torch.int64)
    dynamic = {0: "batch", 1: "sequence"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example, torch.ones_like(example)),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_axes={"input_ids": dynamic, "attention_mask": dynamic, "logits": {0: "batch"}},
            do_constant_folding=True,
        )
    graph = onnx.load(str(path))
    graph.doc_string = "Language of a word, trained on the word lists in wordfreq, which are CC BY-SA 4.0."
    onnx.helper.set_model_props(graph, {"classes": " ".join(LANGUAGES), "alphabet": alphabet})
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, str(path))


def accuracy(path: Path, words: Words) -> float:
    """Top-1 accuracy of the ONNX file under onnxruntime."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, words.feed())
    return float((logits.argmax(axis=1) == words.labels).mean())


def main() -> None:
    """Train, export, write the calibration and test files, and print the accuracy of the exported model."""
    parser = argparse.ArgumentParser(description="Train wordlang_transformer, write its ONNX and data files.")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).resolve().parent,
        help="folder to write to",
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    train, test, alphabet = load_split()
    model = WordLanguage(FIRST_LETTER + len(alphabet))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters} parameters, {len(train.ids)} train words", flush=True)
    started = time.perf_counter()
    fit(model, train, args.epochs)
    print(f"trained in {time.perf_counter() - started:.0f} s")

    path = args.out / f"{NAME}.onnx"
    export(model, path, alphabet)
    calib = Words(train.ids[:CALIB_SAMPLES], train.labels[:CALIB_SAMPLES])
    np.savez_compressed(args.out / f"{NAME}.calib.npz", **calib.feed())
    np.savez_compressed(args.out / f"{NAME}.test.npz", **test.feed(), labels=test.labels)
    print(f"test accuracy under onnxruntime: {100 * accuracy(path, test):.2f} %")


if __name__ == "__main__":
    main()
