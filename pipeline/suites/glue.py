"""The paper's suite of texts: GLUE's tasks on GPT-2, from public checkpoints fine-tuned on one task each.

A definition lists tasks of tables/glue.csv. The protocol is FusionBench's: heads are the experts' own, features are
those of a text's last token, the scored split is GLUE's validation. Pools of calibration and validation texts are
disjoint parts of GLUE's training split.

Only `prepare` uses the network. It checks what costs little first: settings, tokenisers, the footers of parquet files;
then all texts; and only then it fetches weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field, model_validator
from tokenizers import Tokenizer
from tqdm import tqdm

from pipeline.models.examples import pad_texts
from pipeline.models.suite import SPLITS, Suite, SuiteFolder, Task
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.schema import Parameters
from pipeline.suites import _glue_weights as weights
from pipeline.suites import _hub
from pipeline.suites._checkpoints import Checkpoint
from pipeline.suites._glue_tasks import GLUE_TASKS, GlueTask, find_glue_task
from pipeline.suites._glue_texts import check_texts, end_token, read_split, read_tokenizer
from pipeline.suites._parquet import find_parquet_files, read_footer
from pipeline.suites._sources import (
    FileSource,
    expand_place,
    fetch,
    list_names,
    locate_checkpoint,
    plan_fetches,
    read_footers,
)
from pipeline.suites._splits import count_overlap, draw_pool, split_validation
from pipeline.suites._tables import read_published

PUBLISHED = {"base": "openai-community/gpt2", "data": "nyu-mll/glue", "max_length": 512}
"""What published accuracies were measured with."""
TRAIN = "train"
Place = Annotated[str, AfterValidator(expand_place)]
Texts = tuple[list[list[int]], np.ndarray]
"""Token ids of each text, and labels."""


def _known(name: str) -> str:
    try:
        return find_glue_task(name).name
    except BenchmarkError as error:
        raise ValueError(str(error)) from error


TaskName = Annotated[str, AfterValidator(_known)]


class Definition(Parameters):
    """The content of a suite's YAML file."""

    base: Place
    """Repository of the pre-trained GPT-2 and of its tokeniser."""
    base_revision: str = "main"
    data: Place
    """Repository of GLUE, with a folder of parquet files per task."""
    data_revision: str = "main"
    experts: dict[TaskName, Place] = Field(default_factory=dict)
    """Experts in place of the published ones."""
    max_length: int = Field(512, ge=1)
    """Tokens of a text at most; of longer ones, the end is cut."""
    merge_embeddings: bool = True
    """Whether token and position embeddings (wte, wpe) are merged; otherwise they stay those of the base."""
    tasks: list[TaskName]

    @model_validator(mode="after")
    def _complete(self) -> "Definition":
        if len(self.tasks) < 2:
            raise ValueError(f"{len(self.tasks)} tasks, expected at least two: there is nothing to merge in one expert")
        if twice := sorted({name for name in self.tasks if self.tasks.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)}: listed twice")
        if unused := sorted(self.experts.keys() - {*self.tasks}):
            raise ValueError(f"experts: {unused[0]} is not among the tasks; add it or remove its expert")
        return self

    def expert(self, task: GlueTask) -> tuple[str, str]:
        """Return the place of a task's expert, and its revision."""
        return (self.experts[task.name], "main") if task.name in self.experts else (task.checkpoint, task.revision)


class Recipe(Parameters):
    """Sizes of the parts of the training texts: the pool of calibration texts, and the validation split."""

    seed: int = Field(ge=0)
    pool: int = Field(ge=1)


def sizes(definition: Definition, recipe: Recipe) -> dict[str, dict[str, int]]:
    """Return {task: {split: number of texts}} before anything is fetched; train and validation are upper limits."""
    limits = {"train": recipe.pool, "validation": recipe.pool}
    return {name: {**limits, "test": find_glue_task(name).test_size} for name in definition.tasks}


def prepare(name: str, definition: Definition, recipe: Recipe, checkpoints: Path, folder: Path) -> None:
    """Fetch and convert the suite `name` into `folder`; `checkpoints` is not read, as nothing is trained here.

    Raises BenchmarkError for missing files, and for models, tokenisers and texts that do not fit together.
    """
    tasks = [find_glue_task(task) for task in definition.tasks]
    base = locate_checkpoint(definition.base, definition.base_revision, ("config.json", "tokenizer.json"))
    experts = [locate_checkpoint(*definition.expert(task), ("config.json",), ("tokenizer.json",)) for task in tasks]
    data = _locate_texts(definition, tasks)
    plans = plan_fetches([base, *experts, *(source for splits in data for source in splits)])
    model, tokenizer = _read_base(base, plans, definition.max_length)
    for task, expert in zip(tasks, experts, strict=True):
        _check_expert(model, tokenizer, task, expert, plans)
    for task, splits in zip(tasks, tqdm(data, desc="footers", unit="task"), strict=True):
        check_texts(task, *(read_footers(source, plans) for source in splits))
    texts = {
        task.name: _read_texts(task, [fetch(plans, [source]) for source in splits], recipe, tokenizer)
        for task, splits in zip(tasks, tqdm(data, desc="texts", unit="task"), strict=True)
    }
    paths = dict(zip(definition.tasks, [fetch(plans, [source])[-1] for source in experts], strict=True))
    groups = _write_weights(model, fetch(plans, [base])[-1], tasks, paths, definition.merge_embeddings, folder)
    overlap = _write_texts(texts, folder)
    store.write_text(folder / "tokenizer.json", tokenizer.to_str())
    Suite(
        name=name,
        tasks=tuple(Task(name=task.name, classes=task.classes) for task in tasks),
        model=model,
        groups=groups,
        provenance={
            "source": "public checkpoints and data sets" if plans else "local checkpoints and data sets",
            "note": _describe(definition),
            "embedded": False,
            "fetched": _hub.record_downloads(plans),
            "overlap": overlap,
            "anchors": _anchors(definition),
            "published": _published(definition),
        },
    ).save(folder)
    SuiteFolder(folder)


def _locate_texts(definition: Definition, tasks: Sequence[GlueTask]) -> list[tuple[FileSource, FileSource]]:
    """Locate the files of each task's training and scored split."""
    place, revision = definition.data, definition.data_revision
    names = list_names(place, "dataset", revision)

    def locate(task: str, split: str) -> FileSource:
        return FileSource(place, "dataset", revision, tuple(find_parquet_files(names, task, split)))

    return [(locate(task.name, TRAIN), locate(task.name, task.test_split)) for task in tasks]


def _read_base(base: FileSource, plans: Sequence[_hub.Listing], longest: int) -> tuple[dict[str, Any], Tokenizer]:
    config, tokens = fetch(plans, [base.only("config.json", "tokenizer.json")])
    model, _ = weights.read_model(config, base.repo)
    if longest > model["positions"]:
        raise BenchmarkError(f"max_length {longest}, {base.repo} has {model['positions']} positions; lower max_length")
    tokenizer = read_tokenizer(tokens, base.repo, longest)
    if (size := tokenizer.get_vocab_size()) > model["vocabulary"]:
        raise BenchmarkError(
            f"{base.repo}: tokenizer.json has {size} tokens, config.json {model['vocabulary']}; take both files from "
            "one model"
        )
    return model, tokenizer


def _check_expert(
    model: dict[str, Any], tokenizer: Tokenizer, task: GlueTask, expert: FileSource, plans: Sequence[_hub.Listing]
) -> None:
    """Check an expert's settings, and that its tokeniser, if it has one, gives each token the base's id."""
    small = expert.only(*expert.names[:-1])
    title = f"{task.name}: {expert.repo}"
    config, *tokens = fetch(plans, [small])
    weights.check_expert_config(model, task, config, title, end_token(tokenizer))
    for path in tokens:
        if read_tokenizer(path, title, 1).get_vocab() != tokenizer.get_vocab():
            raise BenchmarkError(
                f"{title}: tokenizer.json has other tokens than the base's; it comes from another base"
            )


def _read_texts(task: GlueTask, files: Sequence[Sequence[Path]], recipe: Recipe, tokenizer: Tokenizer) -> list[Texts]:
    """Return the texts of every split, from the files of GLUE's training and of its scored split."""
    train, test = files
    total = sum(sum(read_footer(path).groups) for path in train)
    pools = [part[draw_pool(len(part), recipe.pool, recipe.seed)] for part in split_validation(total)]
    return [*(read_split(task, train, rows, tokenizer) for rows in pools), read_split(task, test, None, tokenizer)]


def _write_texts(texts: dict[str, list[Texts]], folder: Path) -> dict[str, dict[str, int]]:
    """Write texts, all in one length, and labels; return how many of each pool occur in the test split, by content."""
    length = max(len(ids) for splits in texts.values() for encoded, _ in splits for ids in encoded)
    overlap = {}
    for task, splits in texts.items():
        arrays = {split: pad_texts(encoded, length) for split, (encoded, _) in zip(SPLITS, splits, strict=True)}
        for split, (_, labels) in zip(SPLITS, splits, strict=True):
            store.write_array(folder / "texts" / split / f"{task}.npy", arrays[split])
            store.write_array(folder / "labels" / split / f"{task}.npy", labels)
        overlap[task] = {split: count_overlap(arrays[split], arrays["test"]) for split in SPLITS[:2]}
    return overlap


def _write_weights(
    model: dict[str, Any],
    base: Path,
    tasks: Sequence[GlueTask],
    experts: dict[str, Path],
    merge_embeddings: bool,
    folder: Path,
) -> tuple[str, ...]:
    """Check the shapes of all weights, then write theta_0, experts and heads; return the names of merged tensors."""
    weights.check_trunk(model, Checkpoint(base, "base", "meta"))
    for task in tasks:
        header = Checkpoint(experts[task.name], task.name, "meta")
        weights.check_trunk(model, header)
        weights.read_head(model, task, header)
    theta = weights.check_trunk(model, Checkpoint(base, "base"))
    store.write_tensors(folder / "base.safetensors", theta)
    groups = tuple(name for name in theta if merge_embeddings or name not in weights.EMBEDDINGS)
    heads = {}
    for task in tasks:
        checkpoint = Checkpoint(experts[task.name], task.name)
        trunk = weights.check_trunk(model, checkpoint)
        store.write_tensors(folder / "experts" / f"{task.name}.safetensors", {name: trunk[name] for name in groups})
        heads[task.name] = weights.read_head(model, task, checkpoint)
    store.write_tensors(folder / "heads.safetensors", heads)
    return groups


def _describe(definition: Definition) -> str:
    """Describe for the report how the suite differs from those of images."""
    merged = (
        "All of GPT-2 is merged, its token and position embeddings too."
        if definition.merge_embeddings
        else "Token and position embeddings are not merged: every model has those of the base, the experts too."
    )
    return (
        "Each task has the classification head of its expert; only SyMerge changes heads. Zero-shot is the pre-trained "
        f"GPT-2 with these heads. {merged} The test split is GLUE's validation split, for MNLI the matched one."
    )


def _anchors(definition: Definition) -> dict[str, dict[str, float]]:
    """Return published accuracies of the same checkpoints, in per cent: {task: {zeroshot, individual, average}}."""
    if any(getattr(definition, key) != value for key, value in PUBLISHED.items()):
        return {}
    tasks = [GLUE_TASKS[name] for name in definition.tasks if name not in definition.experts]
    anchors = {task.name: {"zeroshot": task.zeroshot} for task in tasks}
    for task in tasks if definition.merge_embeddings else ():
        anchors[task.name]["individual"] = task.expert
        if {*anchors} == {*GLUE_TASKS}:
            anchors[task.name]["average"] = task.average
    return anchors


def _published(definition: Definition) -> list[dict[str, Any]]:
    """Return the published results on exactly these checkpoints and tasks."""
    if {*_anchors(definition)} != {*GLUE_TASKS}:
        return []
    rows = [row for row in read_published() if row.suite == "glue-7"]
    return [row.model_dump(exclude={"suite", "backbone"}) for row in rows]
