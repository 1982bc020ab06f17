"""Replicas of the hub's repositories that the CLIP suites need: real names, layouts, columns and types, tiny content.

Images are synthetic: a pattern that the label determines, plus noise, in the sizes, formats and modes of the real
ones. The CLIP has real names and shapes but 32 channels, two layers and random weights. All of it is deterministic.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save

from pipeline.suites._clip_tasks import BACKBONES, CLIP_TASKS, ClipTask

Repositories = dict[str, dict[str, bytes]]
GROUP = 4
"""Rows per row group."""
SHARDS = {"sun397": 3, "stanford-cars": 2, "pcam": 2, "oxford_flowers102": 2, "food101": 2}
"""Parquet files per split, where there is more than one."""
GREY = ("mnist", "fashion_mnist", "emnist_letters", "kmnist", "fer2013")
JPEG = (
    "sun397", "stanford-cars", "resisc45", "eurosat", "dtd", "oxford_flowers102", "fer2013", "oxford-iiit-pet",
    "food101",
)  # fmt: skip
PALETTE = ("rendered-sst2",)
SPLITS = {
    "resisc45": ("train", "test", "gaussian_noise"),
    "svhn": ("train", "test", "extra"),
    "oxford_flowers102": ("train", "validation", "test"),
    "pcam": ("train", "valid", "test"),
    "food101": ("train", "validation"),
    "rendered-sst2": ("train", "validation", "test"),
}
"""The splits, where they are not train and test."""
FOLDERS = {
    "svhn": "cropped_digits",
    "mnist": "mnist",
    "fer2013": "default",
    "fashion_mnist": "fashion_mnist",
    "emnist_letters": "emnist-letters",
    "kmnist": "kmnist",
    "rendered-sst2": "default",
}
"""The folders, where they are not called data."""
CONVERTED = ("fer2013", "rendered-sst2")
"""Taken from the hub's conversion: <split>/0000.parquet."""
UNLABELLED_COLUMNS = ("pcam", "fer2013")
"""No ClassLabel: booleans, and a WebDataset's integers."""


def datasets(rows_train: int = 12, rows_test: int = 6) -> Repositories:
    """{repository: {file name: bytes}} of every dataset; splits that are not used get one row."""
    repositories: Repositories = {}
    for name, task in CLIP_TASKS.items():
        sizes = {task.train_split: rows_train, task.test_split: rows_test}
        files: dict[str, bytes] = {"README.md": b"", ".gitattributes": b""}
        for split in SPLITS.get(name, ("train", "test")):
            files |= _split(task, split, sizes.get(split, 1))
        if name == "svhn":
            digits = pa.table({"digits": [[{"bbox": [0, 0, 1, 1], "label": 1}]]})
            files |= {f"full_numbers/{split}-00000-of-00001.parquet": _parquet(digits) for split in ("train", "test")}
        repositories[task.dataset] = files
    return repositories


def labels(task: ClipTask, rows: int) -> list[int]:
    """The labels of a split's rows, in order."""
    return [row % len(task.classes) for row in range(rows)]


def pixels(task: ClipTask, split: str, row: int, label: int) -> np.ndarray:
    """The image of row `row` of a split before encoding, uint8 [height, width, 3 or none]."""
    rng = _generator(task.name, split, row)
    grey = task.name in GREY
    cells = _generator(task.name, label).integers(0, 2, (6, 6) if grey else (6, 6, 3)) * 180 + 30
    height, width = (28, 28) if grey else rng.integers(24, 60, 2)
    picture = Image.fromarray(cells.astype(np.uint8)).resize((int(width), int(height)), Image.Resampling.NEAREST)
    shape = np.asarray(picture).shape
    return (np.asarray(picture) + rng.integers(-15, 16, shape)).clip(0, 255).astype(np.uint8)


def encoded(task: ClipTask, split: str, row: int, label: int) -> bytes:
    """The image file of a row, in the format and mode of the task."""
    picture, buffer = Image.fromarray(pixels(task, split, row, label)), io.BytesIO()
    if task.name in PALETTE:
        picture = picture.quantize(64)
    picture.save(buffer, "JPEG" if task.name in JPEG else "PNG", **({"quality": 95} if task.name in JPEG else {}))
    return buffer.getvalue()


def unpinned(test_size: int) -> dict[str, ClipTask]:
    """The tasks of the tables with their repositories at main and as many test images as the replicas have."""
    main = {"revision": "main"}
    return {
        name: task.model_copy(
            update={
                "test_size": test_size,
                "revision": ("main",),
                "anchors": {backbone: anchor.model_copy(update=main) for backbone, anchor in task.anchors.items()},
            }
        )
        for name, task in CLIP_TASKS.items()
    }


def checkpoints(backbone: str, tasks: Sequence[str] = tuple(CLIP_TASKS)) -> Repositories:
    """{repository: {file name: bytes}}: the pre-trained CLIP of a backbone, and an expert per task.

    As in the real files, the base holds position_ids besides its weights, the experts the vision tower alone.
    """
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    patch = {"vit-b-32": 32, "vit-b-16": 16, "vit-l-14": 14}[backbone]
    vision, text = {**tower, "patch_size": patch, "image_size": 224, "projection_dim": 24}, {**tower, "eos_token_id": 2}
    config = CLIPConfig(text_config={**text, "projection_dim": 24}, vision_config=vision, projection_dim=24)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(patch)
        weights = {name: tensor.detach().clone() for name, tensor in CLIPModel(config).state_dict().items()}
    token = "text_model.embeddings.token_embedding.weight"
    weights[token] = weights[token].half()  # a table of 49,408 rows
    base = {
        **weights,
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "vision_model.embeddings.position_ids": torch.arange((224 // patch) ** 2 + 1)[None],
    }
    repositories = {BACKBONES[backbone]: _model(base, {**config.to_dict(), "architectures": ["CLIPModel"]})}
    described = {**config.vision_config.to_dict(), "architectures": ["CLIPVisionModel"]}
    for name in tasks:
        rng = torch.Generator().manual_seed(int(_generator(backbone, name).integers(2**62)))
        expert = {
            key: value + 0.01 * torch.randn(value.shape, generator=rng)
            for key, value in weights.items()
            if key.startswith("vision_model.")
        }
        repositories[CLIP_TASKS[name].anchors[backbone].checkpoint] = _model(expert, described)
    return repositories


def _generator(*key: object) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(repr(key).encode()).digest()))


def _model(tensors: Mapping[str, torch.Tensor], config: Mapping[str, object]) -> dict[str, bytes]:
    weights = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"format": "pt"})
    return {"config.json": json.dumps(config, indent=2).encode(), "model.safetensors": weights, "README.md": b""}


def _split(task: ClipTask, split: str, rows: int) -> dict[str, bytes]:
    """The parquet files of a split: rows in order, the last file the shortest."""
    table, shards = _table(task, split, rows), SHARDS.get(task.name, 1)
    folder, size = FOLDERS.get(task.name, "data"), -(-rows // shards)
    files = {}
    for shard in range(shards):
        tail = f"-{_generator(split, shard).bytes(8).hex()}" if task.name == "pcam" else ""
        name = f"{split}-{shard:05}-of-{shards:05}{tail}" if task.name not in CONVERTED else f"{split}/{shard:04}"
        files[f"{folder}/{name}.parquet"] = _parquet(table.slice(shard * size, size))
    return files


def _table(task: ClipTask, split: str, rows: int) -> pa.Table:
    numbers = labels(task, rows)
    image, label = task.image_column[0], task.label_column[0]
    cells = [
        {"bytes": encoded(task, split, row, number), "path": f"{split}_{row}.{'jpg' if task.name in JPEG else 'png'}"}
        for row, number in enumerate(numbers)
    ]
    columns = {image: pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()}))}
    features: dict[str, object] = {image: {"_type": "Image"}}
    if task.name == "fer2013":
        columns |= {"__key__": pa.array([f"s{row:07}" for row in range(rows)]), "__url__": pa.array([split] * rows)}
    if task.name == "oxford-iiit-pet":
        columns["image_id"] = pa.array([f"pet_{row}" for row in range(rows)])
    columns[label] = pa.array([bool(number) for number in numbers] if task.name == "pcam" else numbers)
    if task.name not in UNLABELLED_COLUMNS:
        names = task.stored_classes or task.classes
        features[label] = {"names": [name.replace(" ", "_") for name in names], "_type": "ClassLabel"}
    described = json.dumps({"info": {"features": features}})
    return pa.table(columns).replace_schema_metadata({"huggingface": described})


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, row_group_size=GROUP)
    return sink.getvalue().to_pybytes()
