"""Suites of public CLIP checkpoints: TA-8, TALL-14 and TALL-20 on three backbones, and custom suites.

A definition lists tasks. A task of the tables (tables/tasks.csv) is listed by its name alone; its expert is then the
published one for the definition's `backbone`. Any other task is listed in full. Repositories are ids of the hub, or
folders and files of this machine, which start with `.` or `/`.

Only `prepare` uses the network. Decoded images are stored next to the hub's cache and shared between suites by hard
links: TALL-14 does not fetch or decode again what TA-8 has.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, model_validator
from torch import Tensor
from tqdm import tqdm

from pipeline.models.suite import SPLITS, Name, Suite, SuiteFolder, Task
from pipeline.models.weights import FROZEN, Weights
from pipeline.runtime import store
from pipeline.runtime.device import device
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.parallel import count_workers, run_all
from pipeline.runtime.schema import Parameters
from pipeline.suites import _clip_images as images
from pipeline.suites import _clip_weights as weights
from pipeline.suites import _hub
from pipeline.suites._clip_tasks import (
    BACKBONES,
    SUITES,
    ClipTask,
    check_test_size,
    find_parquet_files,
    find_task,
    read_published,
)

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Files that may hold a checkpoint's tensors; the first that exists is used."""
BYTES = images.IMAGE_SIDE * images.IMAGE_SIDE * 3
"""Bytes of a decoded image."""


class CustomTask(Parameters):
    """A task that is not in the tables: its expert, its images (parquet files), its class names in label order."""

    name: Name
    expert: str
    expert_revision: str = "main"
    dataset: str
    revision: str = "main"
    config: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    image_column: str = "image"
    label_column: str = "label"
    label_offset: int = 0
    transpose: bool = False
    test_size: int = Field(ge=1)
    classes: list[str]
    templates: list[str] = Field(["a photo of a {}."], min_length=1)

    def describe(self) -> ClipTask:
        """Describe the task as the tables would."""
        fields = self.model_dump(exclude={"expert", "expert_revision"})
        return ClipTask.model_validate({**fields, "suites": "own", "anchors": {}, "note": ""})


class Definition(Parameters):
    """The content of a suite's YAML file."""

    backbone: Literal["vit-b-32", "vit-b-16", "vit-l-14"] | None = None
    """Backbone of the published checkpoints of tasks that are listed by name."""
    base: str | None = None
    """Repository of the pre-trained CLIP; by default that of the backbone."""
    base_revision: str = "main"
    tasks: list[str | CustomTask] = Field(min_length=1)

    @model_validator(mode="after")
    def _complete(self) -> "Definition":
        named = [entry for entry in self.tasks if isinstance(entry, str)]
        if named and not self.backbone:
            raise ValueError(f"tasks listed by name ({', '.join(named)}) need a backbone: {', '.join(BACKBONES)}")
        if not self.base and not self.backbone:
            raise ValueError("expected a base or a backbone")
        names = [task.name for task, _, _ in self.describe()]
        if len({*names}) != len(names):
            raise ValueError(f"a task is listed twice: {', '.join(names)}")
        return self

    def describe(self) -> list[tuple[ClipTask, str, str]]:
        """Return, for every task, its description, its expert and the expert's revision."""
        return [
            (find_task(entry), find_task(entry).anchors[cast("str", self.backbone)].checkpoint, "main")
            if isinstance(entry, str)
            else (entry.describe(), entry.expert, entry.expert_revision)
            for entry in self.tasks
        ]


class Recipe(Parameters):
    """Sizes of the parts of the training images: the pool of calibration images, and the validation split."""

    seed: int = Field(ge=0)
    pool: int = Field(ge=1)


@dataclass(frozen=True)
class FileSource:
    """A repository of the hub or a path on this machine, and the names of the required files."""

    repo: str
    kind: _hub.Kind
    revision: str
    names: tuple[str, ...]

    @property
    def local(self) -> bool:
        """Whether the files are on this machine."""
        return self.repo.startswith((".", "/"))


def sizes(definition: Definition, recipe: Recipe) -> dict[str, dict[str, int]]:
    """Return {task: {split: number of images}} before anything is fetched; train and validation are upper limits."""
    limits = {"train": recipe.pool, "validation": recipe.pool}
    return {task.name: {**limits, "test": task.test_size} for task, _, _ in definition.describe()}


def prepare(name: str, definition: Definition, recipe: Recipe, checkpoints: Path, folder: Path) -> None:
    """Fetch and convert the suite `name` into `folder`; `checkpoints` is not read, as nothing is trained here.

    Raises BenchmarkError for missing files, invalid images and tensors, and a lack of disk space.
    """
    entries = definition.describe()
    tasks = [task for task, _, _ in entries]
    pretrained = definition.base or BACKBONES[cast("str", definition.backbone)]
    base = _checkpoint(pretrained, definition.base_revision, ("config.json",))
    experts = [_checkpoint(expert, revision) for _, expert, revision in entries]
    data = [_dataset(task) for task in tasks]
    sources = [base, *experts, *data]
    plans = _hub.plan_downloads([_hub.Request(s.repo, s.kind, s.revision, s.names) for s in sources if not s.local])
    cache = _image_cache()
    tqdm.write(_hub.describe_downloads(plans))
    _hub.check_room(plans)
    _check_room(cache, sum(task.test_size + 2 * recipe.pool for task in tasks) * BYTES)
    fetched = _hub.fetch_files(plans)
    commits = {plan.repo: plan.commit for plan in plans}
    overlap = {}
    for task, source in zip(tasks, data, strict=True):
        paths = _paths(source, fetched)
        key = commits.get(source.repo) or _hash_contents(paths)
        overlap[task.name] = _images(task, source, paths, key, recipe, cache, folder)
    config_path, base_path = _paths(base, fetched)
    config = weights.convert_config(json.loads(store.read_text(config_path)))
    groups = _weights(config, base_path, tasks, folder)
    for task, expert in zip(tasks, experts, strict=True):
        tuned = _expert(_paths(expert, fetched)[0])
        store.write_tensors(folder / "experts" / f"{task.name}.safetensors", tuned)
    Suite(
        name=name,
        tasks=tuple(Task(name=task.name, classes=task.classes) for task in tasks),
        model=config,
        mean=MEAN,
        std=STD,
        groups=groups,
        provenance={
            "source": "public checkpoints and data sets" if plans else "local checkpoints and data sets",
            "embedded": False,
            "fetched": _hub.record_downloads(plans),
            "overlap": overlap,
            "anchors": _anchors(definition),
            "published": _published(definition),
        },
    ).save(folder)
    SuiteFolder(folder)


def _checkpoint(repo: str, revision: str, more: Sequence[str] = ()) -> FileSource:
    """Locate the files of a checkpoint: `more`, then the file with the tensors."""
    names = _names(repo, "model", revision)
    tensors = next((name for name in WEIGHT_FILES if name in names), None)
    if Path(repo).is_file():
        tensors = ""
    if tensors is None:
        raise BenchmarkError(f"{repo}: no {' or '.join(WEIGHT_FILES)}; it has {', '.join(names[:8]) or 'no files'}")
    return FileSource(repo, "model", revision, (*more, tensors))


def _dataset(task: ClipTask) -> FileSource:
    """Locate the parquet files of a task: those of the training split, then those of the test split."""
    names = _names(task.dataset, "dataset", task.revision)
    try:
        train, test = (find_parquet_files(names, task.config, split) for split in (task.train_split, task.test_split))
    except BenchmarkError as error:
        raise BenchmarkError(f"{task.dataset} (task {task.name}): {error}") from error
    return FileSource(task.dataset, "dataset", task.revision, (*train, *test))


def _names(repo: str, kind: _hub.Kind, revision: str) -> list[str]:
    if not repo.startswith((".", "/")):
        return _hub.list_files(repo, kind, revision)
    root = Path(repo)
    if not root.exists():
        raise BenchmarkError(
            f"{repo}: no such file or folder on this machine; an id of the hub has the form owner/name"
        )
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def _paths(source: FileSource, fetched: dict[tuple[str, str], Path]) -> list[Path]:
    return [Path(source.repo) / name if source.local else fetched[source.repo, name] for name in source.names]


def _tensors(path: Path) -> Any:
    return weights.read_pickle(path) if path.suffix == ".bin" else store.TensorFile(path)


def _expert(path: Path) -> Weights:
    """Read the merged tensors of an expert: a Hugging Face checkpoint, or a .pt file of older open_clip experts."""
    return weights.read_older_expert(path) if path.suffix in (".pt", ".pth") else weights.convert_expert(_tensors(path))


def _hash_contents(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _weights(config: dict[str, Any], path: Path, tasks: Sequence[ClipTask], folder: Path) -> tuple[str, ...]:
    """Write theta_0 and the zero-shot heads; return the names of the merged tensors in the model's order."""
    base = weights.convert_base(_tensors(path))
    store.write_tensors(folder / "base.safetensors", base)
    heads = run_all(_head, [(config, path, task.classes, task.templates) for task in tasks], "heads")
    store.write_tensors(
        folder / "heads.safetensors", {task.name: head for task, head in zip(tasks, heads, strict=True)}
    )
    return tuple(name for name in base if name not in FROZEN)


def _head(config: dict[str, Any], path: Path, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Build the zero-shot head [classes, D] of a task."""
    from open_clip import SimpleTokenizer

    clip, target = weights.load_text_tower(config, _tensors(path)), device()
    tokenize = SimpleTokenizer(context_length=clip.context_length)
    for name, parameter in clip.named_parameters():
        if not name.startswith("visual."):  # `visual` has no storage
            parameter.data = parameter.data.to(target)
    clip.attn_mask = cast("Tensor", clip.attn_mask).to(target)
    return weights.build_zero_shot_head(clip, tokenize, classes, templates).cpu()


def _images(
    task: ClipTask, source: FileSource, paths: Sequence[Path], key: str, recipe: Recipe, cache: Path, folder: Path
) -> dict[str, int]:
    """Decode a task's splits, or link those that an earlier suite decoded into `cache`.

    Returns the number of training and of validation images that occur in the test split, by content.
    """
    count = len(find_parquet_files(source.names, task.config, task.train_split))
    parts = {"train": paths[:count], "validation": paths[:count], "test": paths[count:]}
    train, test = (images.ParquetSplit(parts[split], task) for split in ("train", "test"))
    check_test_size(task, len(test))
    learn, validate = images.split_validation(len(train))
    indices = {
        "train": learn[images.draw_pool(len(learn), recipe.pool, recipe.seed)],
        "validation": validate[images.draw_pool(len(validate), recipe.pool, recipe.seed)],
        "test": None,
    }
    for split in SPLITS:
        files, rows = parts[split], indices[split]
        drawn = "all" if rows is None else hashlib.sha256(rows.tobytes()).hexdigest()
        identity = (task.dataset, key, [path.name for path in files], task.label_offset, task.transpose, drawn)
        place = cache / hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
        pixels, labels = place / "images.npy", place / "labels.npy"
        if not (pixels.exists() and labels.exists()):
            images.decode_split(files, task, pixels, labels, rows, count_workers())
        for decoded, kind in ((pixels, "images"), (labels, "labels")):
            _link(decoded, folder / kind / split / f"{task.name}.npy")
    arrays = {split: store.read_array(folder / "images" / split / f"{task.name}.npy") for split in SPLITS}
    return {split: images.count_overlap(arrays[split], arrays["test"]) for split in ("train", "validation")}


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        with store.replacing(target) as temporary:
            shutil.copyfile(source, temporary)


def _image_cache() -> Path:
    """Return the folder of decoded images, next to the cache of the hub's client."""
    return Path(_hub.constants.HF_ASSETS_CACHE) / "samerging" / "images"


def _check_room(cache: Path, needed: int) -> None:
    existing = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    decoded = sum(file.stat().st_size for file in cache.glob("*/images.npy"))
    free = shutil.disk_usage(existing).free
    if needed - decoded > free:
        raise BenchmarkError(
            f"decoded images need up to {needed / _hub.GIB:.1f} GiB in {cache}, {free / _hub.GIB:.1f} GiB are free; "
            "make room, set HF_HOME to a folder on a larger disk, or lower the recipe's pool"
        )


def _anchors(definition: Definition) -> dict[str, dict[str, float]]:
    """Return published accuracies of the same checkpoints, in per cent: {task: {zeroshot, individual}}."""
    if definition.base or not definition.backbone:
        return {}
    tasks = [find_task(entry) for entry in definition.tasks if isinstance(entry, str)]
    anchors = {task.name: task.anchors[definition.backbone] for task in tasks}
    return {name: {"zeroshot": anchor.zeroshot, "individual": anchor.expert} for name, anchor in anchors.items()}


def _published(definition: Definition) -> list[dict[str, Any]]:
    """Return the published results on exactly these checkpoints and tasks."""
    names = tuple(entry for entry in definition.tasks if isinstance(entry, str))
    suite = next(
        (suite for suite, tasks in SUITES.items() if tasks == names and len(names) == len(definition.tasks)), None
    )
    rows = [row for row in read_published() if (row.suite, row.backbone) == (suite, definition.backbone)]
    return [row.model_dump(exclude={"suite", "backbone"}) for row in rows]
