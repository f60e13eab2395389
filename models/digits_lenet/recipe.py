"""LeNet on scikit-learn's handwritten digits: trained, exported and described in seconds, the same each time.

    .venv-paddle/bin/python models/digits_lenet/recipe.py --version 1.1.0 --out DIR [--format pir] [--heldout DIR]

Packing, signing and serving are not done here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model_folder import GOLDEN_COUNT, write_model_folder
from paddle_export import Exported, choose_format, export

SEED = 20260101
HELD_OUT = 360  # of 1,797 pictures; never trained on
EPOCHS = {"0.9.0": 3, "1.0.0": 8, "1.1.0": 40}  # 0.9.0 is what a device leaves the factory with
RELEASES = {"0.9.0": 1, "1.0.0": 2, "1.1.0": 3}

CARD = """# digits {version}

A LeNet for handwritten digits of 8 x 8 pixels, trained {epochs} epochs with seed {seed}.

- **Data**: scikit-learn's `load_digits` (1,797 pictures, a copy of a part of the UCI Optical Recognition of Handwritten
  Digits set); {held_out} of them are held out and never trained on.
- **Accuracy**: {accuracy:.2%} of the held-out pictures, measured by this recipe on the exported model.
- **Input**: `image`, FP32, (batch, 1, 8, 8), pixels divided by 16.
- **Output**: `logits`, FP32, (batch, 10); the largest one is the digit.
- **Meant for**: demonstrations and tests. Not for reading forms.
"""


def load_data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and held-out pictures (n, 1, 8, 8) float32 and labels (n,) int64."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.images))
    images = (digits.images[order, None, :, :] / 16.0).astype("float32")
    labels = digits.target[order].astype("int64")
    return images[HELD_OUT:], labels[HELD_OUT:], images[:HELD_OUT], labels[:HELD_OUT]


def build_lenet() -> Any:
    """LeNet for 8 x 8 pictures."""
    from paddle import nn

    return nn.Sequential(
        nn.Conv2D(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2D(2, 2),
        nn.Conv2D(6, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2D(2, 2),
        nn.Flatten(), nn.Linear(64, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def train(epochs: int, images: np.ndarray, labels: np.ndarray) -> Any:
    """The trained layer; the same weights each time on one machine."""
    import paddle

    paddle.seed(SEED)
    net = build_lenet()
    optimizer = paddle.optimizer.Adam(learning_rate=2e-3, parameters=net.parameters())
    loss_of = paddle.nn.CrossEntropyLoss()
    rows = np.random.default_rng(SEED)
    for _ in range(epochs):
        order = rows.permutation(len(images))
        for at in range(0, len(order), 64):
            batch = order[at : at + 64]
            loss = loss_of(net(paddle.to_tensor(images[batch])), paddle.to_tensor(labels[batch]))
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
    return net


def main() -> None:
    """Write the model folder, and on request the held-out pictures with their answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", choices=sorted(EPOCHS), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--format", choices=("legacy", "pir"), default="legacy")
    parser.add_argument("--heldout", type=Path, help="also write held-out inputs, labels and this version's answers")
    options = parser.parse_args()
    import paddle

    train_images, train_labels, held_images, held_labels = load_data()
    net = train(EPOCHS[options.version], train_images, train_labels)
    spec = [paddle.static.InputSpec([None, 1, 8, 8], "float32", "image")]
    program, parameters = export(net, spec, options.out / "model", "digits")
    exported = Exported(options.out / program, options.out / parameters)
    answers = exported.one_by_one(held_images)
    accuracy = float((answers[:, 0].argmax(axis=1) == held_labels).mean())
    engine = {"engine": "paddle", "format": options.format, "program": program, "parameters": parameters,
              "threads": 1, "onednn": False, "rtol": 1e-5, "atol": 1e-5}  # fmt: skip
    write_model_folder(
        options.out,
        description={
            "name": "digits",
            "version": options.version,
            "release": RELEASES[options.version],
            "interface": "digits-8x8-v1",
            "compatible": ["*"],
            "inputs": [{"name": "image", "dtype": "FP32", "shape": [-1, 1, 8, 8]}],
            "outputs": [{"name": "logits", "dtype": "FP32", "shape": [-1, 10]}],
            "engines": [engine],
        },
        golden_inputs={"image": held_images[:GOLDEN_COUNT, None]},
        golden_outputs={"logits": answers[:GOLDEN_COUNT]},
        card=CARD.format(
            version=options.version, epochs=EPOCHS[options.version], seed=SEED, held_out=HELD_OUT, accuracy=accuracy
        ),
    )
    if options.heldout:
        options.heldout.mkdir(parents=True, exist_ok=True)
        np.save(options.heldout / "inputs.npy", held_images)
        np.save(options.heldout / "labels.npy", held_labels)
        np.save(options.heldout / f"expected-{options.version}.npy", answers)
    print(f"digits {options.version}: {accuracy:.4f} of {HELD_OUT} held-out pictures")


if __name__ == "__main__":
    choose_format(sys.argv)
    main()
