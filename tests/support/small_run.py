"""A finished run of the tests' suite in seconds: every stage of dvc.yaml in this process, the lock written by DVC."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

from dvc.repo import Repo
from dvc.utils.hydra import apply_overrides

from benchmarks import readme
from pipeline.audit.repository import gather
from pipeline.audit.stages import expand_stages
from pipeline.runtime import store
from tests.support import toy
from tests.test_repro import SMALL

COPIED = (
    "pipeline", "stages", "params.yaml", "dvc.yaml", ".dvcignore", "README.md", "docs", "requirements.lock",
    "pyproject.toml", "LICENSE", "CITATION.cff", "Makefile", "benchmarks", "data/README.md", "reports/README.md",
)  # fmt: skip
ENVIRONMENT = {"SAMERGING_WORKERS": "1", "SAMERGING_DEVICE": "cpu", "DVC_NO_ANALYTICS": "1"}


def make(root: Path) -> None:
    """Make `root` a repository without Git in which everything has run."""
    copy_pipeline(root)
    apply_overrides(str(root / "params.yaml"), [*SMALL])
    with inside(root):
        for command in ordered(root):
            run_stage(command)
        with Repo(str(root)) as repo:
            repo.commit(force=True)
    _publish(root)


def copy_pipeline(root: Path) -> Path:
    """Make `root` a repository of DVC without Git, without the pipeline of the studies and without results."""
    toy.copy_code(root, COPIED)
    for file in (root / "stages/studies").glob("dvc.*"):
        file.unlink()
    store.write_text(root / ".dvc/config", "[core]\n    no_scm = true\n    analytics = false\n")
    return root


@contextmanager
def in_this_process() -> Iterator[None]:
    """Have DVC run the commands of stages in this process, with what a test has patched."""
    with patch("dvc.stage.run.cmd_run", lambda stage, **_: run_stage(stage.cmd)):
        yield


def run_stage(command: str) -> None:
    """Run the command of a stage in this process."""
    _, _, module, *arguments = command.split()
    script = import_module(module)
    script.STAGE.run(script.run, dict(zip(script.STAGE.arguments, arguments, strict=True)))


@contextmanager
def inside(root: Path) -> Iterator[None]:
    """Work in `root`, on the CPU, in one process."""
    with chdir(root), patch.dict(os.environ, {**ENVIRONMENT, "DVC_SITE_CACHE_DIR": str(root.parent / "site")}):
        yield


def copy(source: Path, target: Path) -> Path:
    """Copy a run to tamper with; of DVC's cache, only the lists of directories."""
    shutil.copytree(source, target, ignore=lambda folder, names: _contents(folder, names) if ".dvc" in folder else ())
    return target


def _contents(folder: str, names: list[str]) -> list[str]:
    """The files that a copy of DVC's own folder leaves out."""
    return [name for name in names if (Path(folder) / name).is_file() and not name.endswith((".dir", "config"))]


def ordered(root: Path) -> Iterator[str]:
    """The commands of dvc.yaml in an order that makes every input first."""
    evidence = gather(root)
    waiting = [*expand_stages(evidence.yaml("dvc.yaml"), evidence.yaml("params.yaml")).values()]
    while waiting:
        made = {out for stage in waiting for out in stage.outs}
        ready = [stage for stage in waiting if not any(_inside(out, dep) for out in made for dep in stage.deps)]
        yield from sorted(stage.command for stage in ready)
        waiting = [stage for stage in waiting if stage not in ready]


def _inside(out: str, dep: str) -> bool:
    return f"{out}/".startswith(f"{dep}/") or f"{dep}/".startswith(f"{out}/")


def _publish(root: Path) -> None:
    """Write this run's blocks into the documents, and drop their points, which are about another suite."""
    made = readme.blocks(root)
    for path in readme.documents(root):
        text = readme.replaced(path.read_text(), made).replace("64 unlabelled", "4 unlabelled")
        heading = "^## (What we found|What the studies say)\n"
        path.write_text(re.sub(rf"{heading}.*?(?=^## |\Z)", "", text, flags=re.MULTILINE | re.DOTALL))
