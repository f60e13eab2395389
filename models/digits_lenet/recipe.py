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
BATCH = 32
HELD_OUT = 360  # of 1,797 pictures; never trained on
EPOCHS = {"0.9.0": 3, "1.0.0": 6, "1.1.0": 30}  # 0.9.0 is what a device leaves the factory with
RELEASES = {"0.9.0": 1, "1.0.0": 2, "1.1.0": 3}

CARD = """# digits {version}

A LeNet for handwritten digits of 8 x 8 pixels, trained {epochs} epochs with seed {seed}.

- **Data**: scikit-learn's `load_digits` (1,797 pictures, the test part of "Optical Recognition of Handwritten Digits"
  by E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0); {held_out} of them are held out and never
  trained on.
- **Accuracy**: {accuracy:.2%} of the held-out pictures, measured by this recipe on the exported model.
- **Made by**: `models/digits_lenet/recipe.py --version {version} --format {format}`. On one machine the
  same bytes each time.
- **Input**: `image`, FP32, (batch, 1, 8, 8), pixels divided by 16.
- **Output**: `logits`, FP32, (batch, 10); the largest one is the digit.
- **Licence**: the project's, for weights and recipe; the data's own licence asks for the attribution above.
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
    steps = epochs * -(-len(images) // BATCH)
    rate = paddle.optimizer.lr.CosineAnnealingDecay(4e-3, T_max=steps)
    optimizer = paddle.optimizer.Adam(learning_rate=rate, parameters=net.parameters())
    loss_of = paddle.nn.CrossEntropyLoss()
    rows = np.random.default_rng(SEED)
    for _ in range(epochs):
        order = rows.permutation(len(images))
        for at in range(0, len(order), BATCH):
            batch = order[at : at + BATCH]
            loss = loss_of(net(paddle.to_tensor(images[batch])), paddle.to_tensor(labels[batch]))
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
            rate.step()
    return net


def describe(version: str, model_format: str, program: str, parameters: str) -> dict[str, Any]:
    """snapshot.json without its golden part. Memory is measured when it is packed, by the device's own worker."""
    return {
        "name": "digits",
        "version": version,
        "release": RELEASES[version],
        "interface": "digits-8x8-v1",
        "compatible": ["*"],
        "inputs": [{"name": "image", "dtype": "FP32", "shape": [-1, 1, 8, 8]}],
        "outputs": [{"name": "logits", "dtype": "FP32", "shape": [-1, 10]}],
        "engines": [
            {
                "engine": "paddle",
                "format": model_format,
                "program": program,
                "parameters": parameters,
                "threads": 1,
                "onednn": False,  # 2.5 times slower with it
                "rtol": 1e-5,
                "atol": 1e-5,  # logits are of the order of 10: 1e-5 is the last bits of float32 there
            }
        ],
    }


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
    description = describe(options.version, options.format, program, parameters)
    answers = Exported(options.out, description).one_by_one(held_images)
    accuracy = float((answers[:, 0].argmax(axis=1) == held_labels).mean())
    write_model_folder(
        options.out,
        description=description,
        golden_inputs={"image": held_images[:GOLDEN_COUNT, None]},
        golden_outputs={"logits": answers[:GOLDEN_COUNT]},
        card=CARD.format(
            version=options.version,
            format=options.format,
            epochs=EPOCHS[options.version],
            seed=SEED,
            held_out=HELD_OUT,
            accuracy=accuracy,
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
