"""Every stage at full size on random weights in the public file formats: `python -m benchmarks.full_size`.

Makes a pre-trained CLIP, experts and parquet files of noise in a temporary folder, runs every stage of the pipeline on
them there, and prints and writes each stage's seconds and peak memory. Accuracies mean nothing; times and memory do.
"""

import argparse
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from pyarrow import parquet
from ruamel.yaml import YAML
from safetensors.torch import save_file
from tqdm import tqdm

from pipeline.suites._clip_tasks import BACKBONES, CLIP_TASKS

ROOT = Path(__file__).parent.parent
NAME = "full-size"
VISION = {
    "vit-b-32": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 32},
    "vit-b-16": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16},
    "vit-l-14": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14},
}
TEXT = {"vit-b-32": (512, 8), "vit-b-16": (512, 8), "vit-l-14": (768, 12)}
METHODS = {
    "merge": ["average", "task_arithmetic", "ties"],
    "calibrate": ["distillation"],
    "study": [],
    "svc": [],
    "rescale": [],
    "surgery": [],
}
SCORED = ("ties", "samerging")
"""One method per form of artefact: evaluation knows no methods."""


def checkpoints(backbone: str, tasks: list[str], folder: Path) -> None:
    """Write a random CLIP of the backbone's size and, per task, its image tower with a little noise added."""
    from transformers import CLIPConfig, CLIPModel

    vision, (width, heads) = VISION[backbone], TEXT[backbone]
    tower = {**vision, "image_size": 224, "intermediate_size": 4 * vision["hidden_size"], "projection_dim": width}
    text = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width, "projection_dim": width}
    config = CLIPConfig(text_config=text, vision_config=tower, projection_dim=width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = {name: tensor.contiguous() for name, tensor in CLIPModel(config).state_dict().items()}
    (folder / "base").mkdir(parents=True)
    save_file(weights, folder / "base" / "model.safetensors")
    (folder / "base" / "config.json").write_text(json.dumps(config.to_dict()))
    for number, task in enumerate(tqdm(tasks, desc="experts", unit="expert")):
        rng = torch.Generator().manual_seed(number)
        tuned = {
            name: tensor + 1e-3 * torch.randn(tensor.shape, generator=rng)
            for name, tensor in weights.items()
            if name.startswith("vision_model.") and tensor.is_floating_point()
        }
        (folder / task).mkdir()
        save_file(tuned, folder / task / "model.safetensors")


def images(tasks: list[str], count: int, folder: Path) -> None:
    """Write parquet files with `count` training and test images of noise per task."""
    rng = np.random.default_rng(0)
    for task in tasks:
        for split in ("train", "test"):
            rows = []
            for _ in range(count):
                buffer = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (256, 256, 3), np.uint8)).save(buffer, "JPEG")
                rows.append({"bytes": buffer.getvalue(), "path": None})
            labels = rng.integers(0, len(CLIP_TASKS[task].classes), count)
            place = folder / f"{task}-images" / "data"
            place.mkdir(parents=True, exist_ok=True)
            parquet.write_table(pa.table({"image": rows, "label": labels}), place / f"{split}-00000-of-00001.parquet")


def configure(work: Path, backbone: str, tasks: list[str], count: int, steps: int) -> None:
    """Copy the code into `work` and set its parameters to the one suite of random weights."""
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
    yaml = YAML()
    entries = [
        {
            "name": task,
            "expert": f"./{task}",
            "dataset": f"./{task}-images",
            "test_size": count,
            "classes": [*CLIP_TASKS[task].classes],
            "templates": [CLIP_TASKS[task].templates[0]],
        }
        for task in tasks
    ]
    yaml.dump({"family": "clip", "base": "./base", "tasks": entries}, work / "pipeline" / "suites" / f"{NAME}.yaml")
    params = yaml.load(ROOT / "params.yaml")
    params["suites"], params["methods"], params["seeds"] = [NAME], METHODS, [0]
    params["schedule"][NAME] = {"lr": 0.001, "steps": steps, "batch_size": 16}
    params["recipe"][NAME] = {"seed": 0, "pool": count}
    params["samples_per_task"] = count
    yaml.dump(params, work / "params.yaml")


def measure(work: Path) -> list[dict[str, Any]]:
    """Run every stage but the studies and the report; their run records."""
    stages = [("prepare",), ("teach",), *(("merge", method) for method in METHODS["merge"])]
    stages += [*(("calibrate", method) for method in METHODS["calibrate"]), ("samerging",)]
    stages += [("evaluate", method) for method in SCORED]
    for stage, *method in stages:
        command = [sys.executable, "-m", f"stages.{stage}", NAME, *method]
        subprocess.run(command, cwd=work, check=True, env={**os.environ, "HF_HOME": str(work / "hf")})
    records = [json.loads((work / "data/runs" / f"{'-'.join((s, NAME, *m))}.json").read_text()) for s, *m in stages]
    return [{key: value for key, value in record.items() if key != "params"} for record in records]


def apart(function: Callable[..., None], *arguments: object) -> None:
    """Run `function` in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{function.__name__} failed")


def main() -> None:
    """Parse the command line, run, print a table and write benchmarks/results/full_size-<backbone>-<T>.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=BACKBONES, default="vit-b-32")
    parser.add_argument("--tasks", type=int, default=8, help="how many of the tasks, in their order")
    parser.add_argument("--images", type=int, default=200, help="training and test images per task")
    parser.add_argument("--steps", type=int, default=3, help="calibration steps")
    arguments = parser.parse_args()
    tasks = [*CLIP_TASKS][: arguments.tasks]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        configure(work, arguments.backbone, tasks, arguments.images, arguments.steps)
        # In processes of their own: Linux hands the peak memory of a process down to the programs that it starts.
        apart(checkpoints, arguments.backbone, tasks, work)
        apart(images, tasks, arguments.images, work)
        records = measure(work)
    result = {"arguments": vars(arguments), "stages": records}
    target = ROOT / "benchmarks" / "results" / f"full_size-{arguments.backbone}-{arguments.tasks}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    for record in records:
        name = " ".join((record["stage"], *record["arguments"].values()))
        print(f"{name:40} {record['seconds']:8.1f} s {record['peak_mib']:8,} MiB  {record['device']}")


if __name__ == "__main__":
    main()
