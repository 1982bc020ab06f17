"""Images per second while a merged model is scored: `python -m benchmarks.evaluation`.

plain     open_clip's own forward on images that are on the device already, as floats
pipeline  what evaluation does: uint8 images from a memory-mapped file, functional weights, normalised features
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks import measure
from benchmarks.synthetic import HALF, SHAPES, config
from pipeline.models.examples import BATCH, encode
from pipeline.models.vit import VisionTransformer
from pipeline.models.weights import build_clip, split_qkv
from pipeline.runtime import store
from pipeline.runtime.device import device


def main() -> None:
    """Parse the command line, measure, print the table, write benchmarks/results/evaluation-*.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=SHAPES, default="vit-b-32")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    target, size = device(), SHAPES[arguments.backbone][4]
    clip = build_clip(config(arguments.backbone)).get_submodule("visual").to(target).eval()
    weights = split_qkv({name: tensor.detach() for name, tensor in clip.named_parameters()})
    tower = VisionTransformer(config(arguments.backbone), HALF, HALF)
    pixels = np.random.default_rng(0).integers(0, 256, (arguments.images, size, size, 3), dtype=np.uint8)
    resident = [
        (torch.from_numpy(part).to(target).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        for part in np.split(pixels, range(BATCH, len(pixels), BATCH))
    ]

    def plain() -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([clip(images) for images in resident])

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        store.write_array(path, pixels)
        images = store.read_array(path)
        ours = encode(tower, weights, images, target)
        theirs = torch.nn.functional.normalize(plain(), dim=-1)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
        timed = {"plain": plain, "pipeline": lambda: encode(tower, weights, images, target)}
        found = measure.rows(measure.alternated(timed, arguments.rounds, target), "plain")
    for name, row in found.items():
        row["images_per_second"] = round(arguments.images / row["seconds"]["median"], 1)
        print(f"{name:8} {row['images_per_second']:9.1f} images/s   {1 / row['ratio']['median']:5.2f} x plain")
    measure.write(f"evaluation-{target.type}-{arguments.backbone}", vars(arguments), target, {"rows": found})


if __name__ == "__main__":
    main()
