"""MobileNetV2 with seeded random weights: for size and latency only, it recognises nothing. Nothing is downloaded.

    .venv-paddle/bin/python models/mobilenet_v2/recipe.py --version 1.0.0 --out DIR [--format pir]

Packing, signing and serving are not done here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model_folder import write_model_folder
from paddle_export import Exported, choose_format, export

SEED = 20260102
GOLDEN = 4
CALIBRATION = 8  # pictures
RELEASES = {"1.0.0": 1, "1.1.0": 2}

CARD = """# mobilenet_v2 {version}

MobileNetV2 (3.5 million parameters, about 14 MB) with **random weights from a fixed seed**. It recognises nothing: it
is here for its size and its latency, as a realistic load for devices and benchmarks.

- **Data**: none. **Accuracy**: none; its outputs mean nothing.
- **Made by**: `models/mobilenet_v2/recipe.py --version {version} --format {format}`, from
  `paddle.vision.models.mobilenet_v2` without pretrained weights; nothing is downloaded. On one machine the same bytes
  each time.
- **Input**: `image`, FP32, (batch, 3, 224, 224). **Output**: `logits`, FP32, (batch, 1000).
- **Licence**: the project's. The architecture is the one of Sandler et al., "MobileNetV2: Inverted Residuals and Linear
  Bottlenecks" (2018).
"""


def pictures(count: int) -> np.ndarray:
    """Seeded coloured tiles, (count, 3, 224, 224) float32 in 0..1: unlike pixel noise they differ at any scale."""
    tiles = np.random.default_rng(SEED).random((count, 3, 7, 7), dtype="float32")
    return tiles.repeat(32, axis=2).repeat(32, axis=3)


def calibrate(net: Any, images: np.ndarray) -> None:
    """Set each batch norm to what it sees: with fresh ones the signal fades to 1e-8, and a proof proves nothing."""
    import paddle

    for layer in net.sublayers():
        if isinstance(layer, paddle.nn.BatchNorm2D):
            layer._momentum = 0.0  # take the statistics of the one batch as they are
    net.train()
    with paddle.no_grad():
        net(paddle.to_tensor(images))


def describe(version: str, model_format: str, program: str, parameters: str) -> dict[str, Any]:
    """snapshot.json without its golden part. Memory is measured when it is packed, by the device's own worker."""
    return {
        "name": "mobilenet_v2",
        "version": version,
        "release": RELEASES[version],
        "interface": "imagenet-224-v1",
        "compatible": ["*"],
        "inputs": [{"name": "image", "dtype": "FP32", "shape": [-1, 3, 224, 224]}],
        "outputs": [{"name": "logits", "dtype": "FP32", "shape": [-1, 1000]}],
        "engines": [
            {
                "engine": "paddle",
                "format": model_format,
                "program": program,
                "parameters": parameters,
                "threads": 1,
                "onednn": True,  # 5.7 times faster with it
                "rtol": 1e-3,
                "atol": 1e-4,  # 53 layers: another CPU's order of sums shows in the fourth digit
            }
        ],
    }


def main() -> None:
    """Write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", choices=sorted(RELEASES), default="1.0.0")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--format", choices=("legacy", "pir"), default="legacy")
    options = parser.parse_args()
    import paddle

    paddle.seed(SEED + RELEASES[options.version])
    images = pictures(GOLDEN + CALIBRATION)
    net = paddle.vision.models.mobilenet_v2(pretrained=False)
    calibrate(net, images[GOLDEN:])
    spec = [paddle.static.InputSpec([None, 3, 224, 224], "float32", "image")]
    program, parameters = export(net, spec, options.out / "model", "mobilenet_v2")
    description = describe(options.version, options.format, program, parameters)
    write_model_folder(
        options.out,
        description=description,
        golden_inputs={"image": images[:GOLDEN, None]},
        golden_outputs={"logits": Exported(options.out, description).one_by_one(images[:GOLDEN])},
        card=CARD.format(version=options.version, format=options.format),
    )
    print(f"mobilenet_v2 {options.version}: random weights, for size and latency only")


if __name__ == "__main__":
    choose_format(sys.argv)
    main()
