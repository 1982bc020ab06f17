"""Suites of public CLIP checkpoints: TA-8, TALL-14 and TALL-20 on three backbones, and suites of one's own.

A definition lists tasks. One that the tables know (tables/tasks.csv) is given by its name alone; its expert is then the
published one of the definition's `backbone`. Any other is given in full. Repositories are ids of the hub, or folders
and files of this machine, which start with `.` or `/`.

`prepare` is all that touches the network. Decoded images are kept beside the hub's cache and shared between suites by
hard links: TALL-14 does not fetch or decode what TA-8 has.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor
from tqdm import tqdm

from pipeline.models.suite import SPLITS, Name, Suite, SuiteFolder, Task
from pipeline.models.weights import FROZEN, Weights
from pipeline.runtime import store
from pipeline.runtime.device import device
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.parallel import run, workers
from pipeline.runtime.schema import Parameters
from pipeline.suites import _clip_images as images
from pipeline.suites import _clip_weights as weights
from pipeline.suites import _hub
from pipeline.suites._clip_tasks import (
    BACKBONES,
    SUITES,
    ClipTask,
    check_test_size,
    parquet_files,
    read_published,
    task,
)

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Where a checkpoint's tensors may be, the first that is there."""
BYTES = images.SIDE * images.SIDE * 3


class OwnTask(Parameters):
    """A task that the tables do not know: its expert, its images (parquet files), its class names in label order."""

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

    def described(self) -> ClipTask:
        """The task as the tables would describe it."""
        fields = self.model_dump(exclude={"expert", "expert_revision"})
        return ClipTask.model_validate({**fields, "suites": "own", "anchors": {}, "note": ""})


class Definition(Parameters):
    """The content of a suite's YAML file."""

    backbone: Literal["vit-b-32", "vit-b-16", "vit-l-14"] | None = None
    """Which published checkpoints stand behind tasks that are given by name."""
    base: str | None = None
    """The pre-trained CLIP; by default that of the backbone."""
    base_revision: str = "main"
    tasks: list[str | OwnTask] = Field(min_length=1)

    @model_validator(mode="after")
    def _complete(self) -> "Definition":
        named = [entry for entry in self.tasks if isinstance(entry, str)]
        if named and not self.backbone:
            raise ValueError(f"tasks given by name ({', '.join(named)}) need a backbone: {', '.join(BACKBONES)}")
        if not self.base and not self.backbone:
            raise ValueError("expected a base or a backbone")
        names = [about.name for about, _, _ in self.described()]
        if len({*names}) != len(names):
            raise ValueError(f"a task is listed twice: {', '.join(names)}")
        return self

    def described(self) -> list[tuple[ClipTask, str, str]]:
        """Per task: its description, its expert, the expert's revision."""
        return [
            (task(entry), task(entry).anchors[self.backbone].checkpoint, "main")
            if isinstance(entry, str)
            else (entry.described(), entry.expert, entry.expert_revision)
            for entry in self.tasks
        ]


class Recipe(Parameters):
    """What is kept of the training images: a pool to draw calibration images from, and a validation split."""

    seed: int = Field(ge=0)
    pool: int = Field(ge=1)


@dataclass(frozen=True)
class Source:
    """A repository that is fetched, or a place on this machine, and the names of its files that are needed."""

    repo: str
    kind: _hub.Kind
    revision: str
    names: tuple[str, ...]

    @property
    def local(self) -> bool:
        """Whether it lies on this machine."""
        return self.repo.startswith((".", "/"))


def sizes(definition: Definition, recipe: Recipe) -> dict[str, dict[str, int]]:
    """{task: {split: number of images}}, known before anything is fetched; train and validation at most so many."""
    kept = {"train": recipe.pool, "validation": recipe.pool}
    return {about.name: {**kept, "test": about.test_size} for about, _, _ in definition.described()}


def prepare(name: str, definition: Definition, recipe: Recipe, checkpoints: Path, folder: Path) -> None:
    """Fetch and convert the suite `name` into `folder`; `checkpoints` holds nothing, for nothing is trained here."""
    entries = definition.described()
    base = _checkpoint(definition.base or BACKBONES[definition.backbone], definition.base_revision, ("config.json",))
    experts = [_checkpoint(expert, revision) for _, expert, revision in entries]
    data = [_dataset(about) for about, _, _ in entries]
    sources = [base, *experts, *data]
    plans = _hub.plan([_hub.Wanted(s.repo, s.kind, s.revision, s.names) for s in sources if not s.local])
    kept = _kept()
    tqdm.write(_hub.announce(plans))
    _hub.check_room(plans)
    _check_room(kept, sum(about.test_size + 2 * recipe.pool for about, _, _ in entries) * BYTES)
    fetched = _hub.fetch(plans)
    commits = {plan.repo: plan.commit for plan in plans}
    overlap = {}
    for (about, _, _), source in zip(entries, data, strict=True):
        key = commits.get(source.repo) or _contents(_paths(source, fetched))
        overlap[about.name] = _images(about, source, _paths(source, fetched), key, recipe, kept, folder)
    config = weights.open_clip_config(json.loads(store.read_text(_paths(base, fetched)[0])))
    groups = _weights(config, _paths(base, fetched)[1], [about for about, _, _ in entries], folder)
    for (about, _, _), expert in zip(entries, experts, strict=True):
        tuned = _expert(_paths(expert, fetched)[0])
        store.write_tensors(folder / "experts" / f"{about.name}.safetensors", tuned)
    Suite(
        name=name,
        tasks=tuple(Task(name=about.name, classes=about.classes) for about, _, _ in entries),
        model=config,
        mean=MEAN,
        std=STD,
        groups=groups,
        provenance={
            "source": "public checkpoints and data sets" if plans else "local checkpoints and data sets",
            "embedded": False,
            "fetched": _hub.record(plans),
            "overlap": overlap,
            "anchors": _anchors(definition),
            "published": _published(definition),
        },
    ).save(folder)
    SuiteFolder(folder)


def _checkpoint(repo: str, revision: str, more: Sequence[str] = ()) -> Source:
    """A checkpoint; the last of its files holds the tensors."""
    found = _names(repo, "model", revision)
    tensors = next((name for name in WEIGHTS if name in found), None)
    if Path(repo).is_file():
        tensors = ""
    if tensors is None:
        raise BenchmarkError(f"{repo}: no {' or '.join(WEIGHTS)}; it has {', '.join(found[:8]) or 'no files'}")
    return Source(repo, "model", revision, (*more, tensors))


def _dataset(about: ClipTask) -> Source:
    """The parquet files of a task: those of the training split, then those of the test split."""
    found = _names(about.dataset, "dataset", about.revision)
    try:
        parts = [parquet_files(found, about.config, split) for split in (about.train_split, about.test_split)]
    except BenchmarkError as error:
        raise BenchmarkError(f"{about.dataset} (task {about.name}): {error}") from error
    return Source(about.dataset, "dataset", about.revision, (*parts[0], *parts[1]))


def _names(repo: str, kind: _hub.Kind, revision: str) -> list[str]:
    if not repo.startswith((".", "/")):
        return _hub.names(repo, kind, revision)
    root = Path(repo)
    if not root.exists():
        raise BenchmarkError(
            f"{repo}: no such file or folder on this machine; an id of the hub has the form owner/name"
        )
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def _paths(source: Source, fetched: dict[tuple[str, str], Path]) -> list[Path]:
    return [Path(source.repo) / name if source.local else fetched[source.repo, name] for name in source.names]


def _tensors(path: Path) -> Any:
    return weights.read_pickle(path) if path.suffix == ".bin" else store.TensorFile(path)


def _expert(path: Path) -> Weights:
    """The merged tensors of an expert: a Hugging Face checkpoint, or a .pt file of the older open_clip line."""
    return weights.from_pickle(path) if path.suffix in (".pt", ".pth") else weights.vision_tensors(_tensors(path))


def _contents(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _weights(config: dict[str, Any], path: Path, tasks: Sequence[ClipTask], folder: Path) -> tuple[str, ...]:
    """Write theta_0 and the zero-shot heads; the names of the merged tensors in the model's order."""
    base = weights.base_tensors(_tensors(path))
    store.write_tensors(folder / "base.safetensors", base)
    heads = run(_head, [(config, path, about.classes, about.templates) for about in tasks], "heads")
    store.write_tensors(
        folder / "heads.safetensors", {about.name: head for about, head in zip(tasks, heads, strict=True)}
    )
    return tuple(name for name in base if name not in FROZEN)


def _head(config: dict[str, Any], path: Path, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
    """The zero-shot head [classes, D] of a task."""
    from open_clip import SimpleTokenizer

    clip, target = weights.load_text(config, _tensors(path)), device()
    tokenize = SimpleTokenizer(context_length=clip.context_length)
    for name, parameter in clip.named_parameters():
        if not name.startswith("visual."):  # which has no storage
            parameter.data = parameter.data.to(target)
    clip.attn_mask = clip.attn_mask.to(target)
    return weights.zero_shot_head(clip, tokenize, classes, templates).cpu()


def _images(
    about: ClipTask, source: Source, paths: Sequence[Path], key: str, recipe: Recipe, kept: Path, folder: Path
) -> dict[str, int]:
    """Decode a task's splits, or take them as an earlier suite left them; overlaps with the test split by content."""
    count = len(parquet_files(source.names, about.config, about.train_split))
    parts = {"train": paths[:count], "validation": paths[:count], "test": paths[count:]}
    train, test = (images.ParquetSplit(parts[split], about) for split in ("train", "test"))
    check_test_size(about, len(test))
    learn, validate = images.field_validation(len(train))
    rows = {
        "train": learn[images.draw_pool(len(learn), recipe.pool, recipe.seed)],
        "validation": validate[images.draw_pool(len(validate), recipe.pool, recipe.seed)],
        "test": None,
    }
    for split in SPLITS:
        files, chosen = parts[split], rows[split]
        drawn = "all" if chosen is None else hashlib.sha256(chosen.tobytes()).hexdigest()
        about_split = (about.dataset, key, [path.name for path in files], about.label_offset, about.transpose, drawn)
        place = kept / hashlib.sha256(repr(about_split).encode()).hexdigest()[:32]
        pixels, labels = place / "images.npy", place / "labels.npy"
        if not (pixels.exists() and labels.exists()):
            images.decode_split(files, about, pixels, labels, chosen, workers())
        for decoded, kind in ((pixels, "images"), (labels, "labels")):
            _link(decoded, folder / kind / split / f"{about.name}.npy")
    found = {split: store.read_array(folder / "images" / split / f"{about.name}.npy") for split in SPLITS}
    return {split: images.overlap(found[split], found["test"]) for split in ("train", "validation")}


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        with store.replacing(target) as temporary:
            shutil.copyfile(source, temporary)


def _kept() -> Path:
    """Where decoded images are kept, beside the cache of the hub's client."""
    return Path(_hub.constants.HF_ASSETS_CACHE) / "samerging" / "images"


def _check_room(kept: Path, needed: int) -> None:
    existing = next(path for path in (kept, *kept.absolute().parents) if path.exists())
    have = sum(file.stat().st_size for file in kept.glob("*/images.npy"))
    free = shutil.disk_usage(existing).free
    if needed - have > free:
        raise BenchmarkError(
            f"decoded images need up to {needed / _hub.GIB:.1f} GiB in {kept}, {free / _hub.GIB:.1f} GiB are free; make "
            "room, set HF_HOME to a folder on a larger disk, or lower the recipe's pool"
        )


def _anchors(definition: Definition) -> dict[str, dict[str, float]]:
    """Published accuracies of the same checkpoints, in percent: {task: {zeroshot, individual}}."""
    if definition.base or not definition.backbone:
        return {}
    known = [task(entry) for entry in definition.tasks if isinstance(entry, str)]
    found = {about.name: about.anchors[definition.backbone] for about in known}
    return {name: {"zeroshot": anchor.zeroshot, "individual": anchor.expert} for name, anchor in found.items()}


def _published(definition: Definition) -> list[dict[str, Any]]:
    """Published results on exactly these checkpoints and tasks."""
    names = tuple(entry for entry in definition.tasks if isinstance(entry, str))
    suite = next(
        (suite for suite, tasks in SUITES.items() if tasks == names and len(names) == len(definition.tasks)), None
    )
    rows = [row for row in read_published() if (row.suite, row.backbone) == (suite, definition.backbone)]
    return [row.model_dump(exclude={"suite", "backbone"}) for row in rows]
