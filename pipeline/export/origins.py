"""Where the models of a suite came from, as its definition and its provenance say, and a CLIP base's text tower."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from huggingface_hub import try_to_load_from_cache

from pipeline import suites
from pipeline.models.suite import Suite
from pipeline.models.weights import Weights
from pipeline.suites import clip, glue
from pipeline.suites._checkpoints import Checkpoint
from pipeline.suites._clip_tasks import BACKBONES
from pipeline.suites._clip_weights import convert_text
from pipeline.suites._glue_tasks import find_glue_task
from pipeline.suites._sources import WEIGHT_FILES


@dataclass(frozen=True)
class Source:
    """A checkpoint behind a merge."""

    role: str
    """"base", or the task of an expert."""
    repo: str
    """An id of the hub, or a path of the machine that prepared the suite."""
    commit: str | None
    """None for a path."""
    license: str | None = None
    """As the repository's card had it when the suite was prepared."""

    @property
    def name(self) -> str:
        """The last part of a path: a card that is published should not show the folders of a machine."""
        return Path(self.repo).name


def list_sources(suite: Suite) -> tuple[Source, ...]:
    """List the base and the experts; none for a suite whose models are not public or local checkpoints."""
    definition = suites.load(suite.name)[1] if suite.name in suites.names() else None
    if isinstance(definition, clip.Definition):
        base = definition.base or BACKBONES[cast("str", definition.backbone)]
        experts = [(task.name, expert) for task, expert, _ in definition.describe()]
    elif isinstance(definition, glue.Definition):
        base, tasks = definition.base, map(find_glue_task, definition.tasks)
        experts = [(task.name, definition.expert(task)[0]) for task in tasks]
    else:
        return ()
    fetched = {entry["repo"]: entry for entry in suite.provenance.get("fetched", [])}
    return tuple(_source(role, repo, fetched.get(repo)) for role, repo in [("base", base), *experts])


def _source(role: str, repo: str, entry: Mapping[str, Any] | None) -> Source:
    return Source(role, entry["id"], entry["commit"], entry.get("license")) if entry else Source(role, repo, None)


def read_text_tower(sources: Sequence[Source]) -> Weights | None:
    """Read the base's text tower, in open_clip's names; None unless its file is on this machine."""
    if not sources or (path := _weights_file(sources[0])) is None:
        return None
    return convert_text(Checkpoint(path, "base"))


def _weights_file(base: Source) -> Path | None:
    if base.commit is None:
        places = [Path(base.repo) / name for name in WEIGHT_FILES]
    else:
        cached = [try_to_load_from_cache(base.repo, name, revision=base.commit) for name in WEIGHT_FILES]
        places = [Path(path) for path in cached if isinstance(path, str)]
    return next((path for path in places if path.is_file()), None)
