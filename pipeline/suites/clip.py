"""Suites of public CLIP checkpoints: TA-8, TALL-14 and TALL-20 on three backbones, and custom suites.

A definition lists tasks. A task of the tables (tables/tasks.csv) is listed by its name alone; its expert is then the
published one for the definition's `backbone`. Any other task is listed in full. Places are ids of the hub, or folders
and files of this machine, which start with `.`, `/` or `~`.

Only `prepare` uses the network. It checks what costs little first: names, captions, the footers of parquet files, the
shapes of weights; then it fetches and decodes, and not again what another suite has.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationError, model_validator
from torch import Tensor

from pipeline.models.examples import encode
from pipeline.models.suite import Suite, SuiteFolder, Task
from pipeline.models.weights import FROZEN, to_device
from pipeline.runtime import store
from pipeline.runtime.device import device
from pipeline.runtime.errors import BenchmarkError, abbreviate
from pipeline.runtime.parallel import run_all
from pipeline.runtime.schema import Parameters
from pipeline.suites import NAME, TEXT, _hub
from pipeline.suites import _clip_weights as weights
from pipeline.suites._checkpoints import Checkpoint
from pipeline.suites._clip_data import check_footers, check_image_room, local_files, write_images
from pipeline.suites._clip_sources import locate_dataset
from pipeline.suites._clip_tasks import BACKBONES, SUITES, ClipTask, find_task
from pipeline.suites._sources import expand_place, fetch, locate_checkpoint, plan_fetches
from pipeline.suites._tables import read_published

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
Place = Annotated[str, AfterValidator(expand_place)]


def _distinct(names: list[str]) -> list[str]:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{twice[0]!r} is listed twice; class names must differ")
    return names


def _template(caption: str) -> str:
    if caption.count("{}") != 1 or caption.count("{") != 1 or caption.count("}") != 1:
        raise ValueError("expected a caption with one {} for the class name")
    return caption


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError("expected lower-case letters, digits and - _ . only")
    return text


def _known(task: str) -> str:
    try:
        return find_task(task).name
    except BenchmarkError as error:
        raise ValueError(str(error)) from error


class CustomTask(Parameters):
    """A task that is not in the tables: its expert, its images, its class names in label order."""

    name: Annotated[str, AfterValidator(_name)]
    expert: Place
    expert_revision: str = "main"
    dataset: Place
    revision: str = "main"
    config: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    image_column: str = "image"
    label_column: str = "label"
    label_offset: int = 0
    transpose: bool = False
    test_size: int = Field(ge=1)
    classes: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2), AfterValidator(_distinct)]
    templates: list[Annotated[str, AfterValidator(_template)]] = Field(["a photo of a {}."], min_length=1)

    def describe(self) -> ClipTask:
        """Describe the task as the tables would."""
        fields = self.model_dump(exclude={"expert", "expert_revision"})
        return ClipTask.model_validate({**fields, "suites": "own", "anchors": {}, "note": ""})


class Definition(Parameters):
    """The content of a suite's YAML file."""

    backbone: Literal["vit-b-32", "vit-b-16", "vit-l-14"] | None = None
    """Backbone of the published checkpoints of tasks that are listed by name."""
    base: Place | None = None
    """Repository of the pre-trained CLIP; by default that of the backbone."""
    base_revision: str = "main"
    tasks: list[
        Annotated[
            Annotated[str, AfterValidator(_known), Tag(TEXT)] | Annotated[CustomTask, Tag("CustomTask")],
            Discriminator(lambda entry: TEXT if isinstance(entry, str) else "CustomTask"),
        ]
    ]

    @model_validator(mode="after")
    def _complete(self) -> "Definition":
        if len(self.tasks) < 2:
            raise ValueError(f"{len(self.tasks)} tasks, expected at least two: there is nothing to merge in one expert")
        named = [entry for entry in self.tasks if isinstance(entry, str)]
        if named and not self.backbone:
            raise ValueError(f"tasks listed by name ({', '.join(named)}) need a backbone: {', '.join(BACKBONES)}")
        if not self.base and not self.backbone:
            raise ValueError("expected a base or a backbone")
        try:
            names = [task.name for task, _, _ in self.describe()]
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{first['loc'][0]} {abbreviate(first['input'])}: {first['msg']}") from error
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)}: listed twice; names of tasks must differ")
        return self

    def describe(self) -> list[tuple[ClipTask, str, str]]:
        """Return, for every task, its description, its expert and the expert's revision."""
        entries = []
        for entry in self.tasks:
            if isinstance(entry, str):
                anchor = find_task(entry).anchors[cast("str", self.backbone)]
                entries.append((find_task(entry), anchor.checkpoint, anchor.revision))
            else:
                entries.append((entry.describe(), entry.expert, entry.expert_revision))
        return entries


class Recipe(Parameters):
    """Sizes of the parts of the training images: the pool of calibration images, and the validation split."""

    seed: int = Field(ge=0)
    pool: int = Field(ge=1)


def sizes(definition: Definition, recipe: Recipe) -> dict[str, dict[str, int]]:
    """Return {task: {split: number of images}} before anything is fetched; train and validation are upper limits."""
    limits = {"train": recipe.pool, "validation": recipe.pool}
    return {task.name: {**limits, "test": task.test_size} for task, _, _ in definition.describe()}


def prepare(name: str, definition: Definition, recipe: Recipe, checkpoints: Path, folder: Path) -> None:
    """Fetch and convert the suite `name` into `folder`; `checkpoints` is not read, as nothing is trained here.

    Raises BenchmarkError for missing files, invalid images and tensors, and a lack of disk space.
    """
    pretrained = definition.base or BACKBONES[cast("str", definition.backbone)]
    base = locate_checkpoint(pretrained, definition.base_revision, ("config.json",))
    entries = definition.describe()
    tasks = [task for task, _, _ in entries]
    experts = [locate_checkpoint(expert, revision) for _, expert, revision in entries]
    data = [locate_dataset(task) for task in tasks]
    plans = plan_fetches([base, *experts, *data])
    config = weights.read_config(fetch(plans, [base.only("config.json")])[0])
    side = config["vision_cfg"]["image_size"]
    _check_captions(tasks, config["text_cfg"]["context_length"])
    check_image_room(tasks, recipe.pool, side)
    sources = list(zip(tasks, data, strict=True))
    check_footers(sources, plans)
    base_path, expert_paths = fetch(plans, [base])[-1], fetch(plans, experts)
    _check_weights(config, base_path, tasks, expert_paths)
    with local_files(sources, plans) as files:
        groups = _write_weights(config, base_path, tasks, expert_paths, folder)
        draw = recipe.pool, recipe.seed
        pairs = list(zip(tasks, files, strict=True))
        overlap = {task.name: write_images(task, part, draw, side, folder) for task, part in pairs}
    unlabelled = {task.name: part.unlabelled for task, part in pairs if part.unlabelled}
    suite = Suite(
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
            "unlabelled": unlabelled,
            "anchors": _anchors(definition),
            "published": _published(definition),
        },
    )
    suite.save(folder)
    for task, splits in unlabelled.items():
        _answer(SuiteFolder(folder), task, splits)
    SuiteFolder(folder)


def _check_weights(config: dict[str, Any], base: Path, tasks: Sequence[ClipTask], experts: Sequence[Path]) -> None:
    """Check names, types and shapes of all tensors by the files' headers."""
    theta = weights.check_base(config, Checkpoint(base, "base", "meta"))
    for task, path in zip(tasks, experts, strict=True):
        weights.check_expert(theta, Checkpoint(path, task.name, "meta"))


def _write_weights(
    config: dict[str, Any], base: Path, tasks: Sequence[ClipTask], experts: Sequence[Path], folder: Path
) -> tuple[str, ...]:
    """Write theta_0, heads and experts; return the names of the merged tensors in the model's order."""
    theta = weights.convert_base(Checkpoint(base, "base"))
    store.write_tensors(folder / "base.safetensors", theta)
    heads = run_all(_head, [(config, base, task.classes, task.templates) for task in tasks], "heads")
    named = {task.name: head for task, head in zip(tasks, heads, strict=True)}
    store.write_tensors(folder / "heads.safetensors", named)
    for task, path in zip(tasks, experts, strict=True):
        expert = weights.convert_expert(Checkpoint(path, task.name))
        store.write_tensors(folder / "experts" / f"{task.name}.safetensors", expert)
    return tuple(name for name in theta if name not in FROZEN)


def _head(config: dict[str, Any], path: Path, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Build the zero-shot head [classes, D] of a task."""
    from open_clip import SimpleTokenizer

    clip, target = weights.load_text_tower(config, Checkpoint(path, "base")), device()
    tokenize = SimpleTokenizer(context_length=clip.context_length)
    for name, parameter in clip.named_parameters():
        if not name.startswith("visual."):  # `visual` has no storage
            parameter.data = parameter.data.to(target)
    clip.attn_mask = cast("Tensor", clip.attn_mask).to(target)
    return weights.build_zero_shot_head(clip, tokenize, classes, templates).cpu()


def _check_captions(tasks: Sequence[ClipTask], context: int) -> None:
    from open_clip import SimpleTokenizer

    tokenize = SimpleTokenizer(context_length=context)
    for task in tasks:
        weights.check_captions(tokenize, context, task.classes, task.templates, task.name)


def _answer(suite: SuiteFolder, task: str, splits: Sequence[str]) -> None:
    """Write the classes that the task's expert predicts as the labels of `splits`."""
    target = device()
    expert = to_device({**suite.base(), **suite.expert(task)}, target)
    for split in splits:
        pixels = suite.examples(split, task)
        features = encode(suite.suite.encoder(), expert, pixels, target)
        answers = (features @ suite.heads()[task].to(target).T).argmax(1)
        store.write_array(suite.folder / "labels" / split / f"{task}.npy", answers.cpu().numpy().astype(np.int64))


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
