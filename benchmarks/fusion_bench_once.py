"""One merge by FusionBench: `python benchmarks/fusion_bench_once.py CLASS SETTINGS MODELS MERGED`.

Run by the Python of an environment with fusion_bench, of which this file needs nothing else. CLASS is an algorithm,
module and name; SETTINGS its arguments, JSON. MODELS holds base/, 0/, 1/, ... as transformers saves image towers of
CLIP. OMP_NUM_THREADS is the number of threads.
"""

import importlib
import json
import sys
from pathlib import Path


def main() -> None:
    """Read, merge and write."""
    algorithm, settings, models, merged = sys.argv[1:]
    module, _, name = algorithm.rpartition(".")
    folders = sorted((path for path in Path(models).iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    tower = {"_target_": "transformers.CLIPVisionModel.from_pretrained"}
    pool = {folder.name: {**tower, "pretrained_model_name_or_path": str(folder)} for folder in folders}
    pool["_pretrained_"] = {**tower, "pretrained_model_name_or_path": str(Path(models) / "base")}
    made = getattr(importlib.import_module(module), name)(**json.loads(settings))
    models_of = importlib.import_module("fusion_bench").BaseModelPool
    made.run(models_of(pool)).save_pretrained(merged)


if __name__ == "__main__":
    main()
