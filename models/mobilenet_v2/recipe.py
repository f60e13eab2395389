"""MobileNetV2 with seeded random weights: for size and latency only, it recognises nothing. Nothing is downloaded.

    .venv-paddle/bin/python models/mobilenet_v2/recipe.py --version 1.0.0 --out DIR [--format pir]

Packing, signing and serving are not done here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model_folder import write_model_folder
from paddle_export import Exported, choose_format, export

SEED = 20260102
GOLDEN = 4
RELEASES = {"1.0.0": 1, "1.1.0": 2}

CARD = """# mobilenet_v2 {version}

MobileNetV2 (3.5 million parameters, about 14 MB) with **random weights from a fixed seed**. It recognises nothing: it is here
for its size and its latency, as a realistic load for devices and benchmarks.

- **Data**: none. **Accuracy**: none.
- **Input**: `image`, FP32, (batch, 3, 224, 224). **Output**: `logits`, FP32, (batch, 1000).
"""


def main() -> None:
    """Write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", choices=sorted(RELEASES), default="1.0.0")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--format", choices=("legacy", "pir"), default="legacy")
    options = parser.parse_args()
    import paddle

    paddle.seed(SEED + RELEASES[options.version])
    net = paddle.vision.models.mobilenet_v2(pretrained=False)
    spec = [paddle.static.InputSpec([None, 3, 224, 224], "float32", "image")]
    program, parameters = export(net, spec, options.out / "model", "mobilenet_v2")
    images = np.random.default_rng(SEED).random((GOLDEN, 3, 224, 224), dtype="float32")
    answers = Exported(options.out / program, options.out / parameters).one_by_one(images)
    engine = {"engine": "paddle", "format": options.format, "program": program, "parameters": parameters,
              "threads": 1, "onednn": True, "rtol": 1e-3, "atol": 1e-4}  # fmt: skip
    write_model_folder(
        options.out,
        description={
            "name": "mobilenet_v2",
            "version": options.version,
            "release": RELEASES[options.version],
            "interface": "imagenet-224-v1",
            "compatible": ["*"],
            "inputs": [{"name": "image", "dtype": "FP32", "shape": [-1, 3, 224, 224]}],
            "outputs": [{"name": "logits", "dtype": "FP32", "shape": [-1, 1000]}],
            "engines": [engine],
        },
        golden_inputs={"image": images[:, None]},
        golden_outputs={"logits": answers},
        card=CARD.format(version=options.version),
    )


if __name__ == "__main__":
    choose_format(sys.argv)
    main()
