"""The run of every method, reports/methods -> a folder like a repository, to be audited as one.

`make methods` keeps the parameters, the lock and the report of that run. Its code is the code of this commit; of its
data/ there is what its report restores.
"""

import shutil
from pathlib import Path

from pipeline.audit.finding import Finding, Tally
from pipeline.audit.repository import Repository, RepositoryError

KEPT = Path("reports/methods")
OWN = ("params.yaml", "dvc.lock")
"""Files that the run keeps beside its report; all others there are of reports/."""
SHARED = ("dvc.yaml", ".dvcignore", "requirements.lock", "benchmarks", "pipeline", "stages")


def unfold(repository: Repository, folder: Path) -> bool:
    """Make `folder` the repository in which every method ran; False if none of it is at hand.

    RepositoryError if its parameters or its lock are missing.
    """
    kept = repository.root / KEPT
    if not kept.is_dir():
        return False
    for name in OWN:
        if not (kept / name).is_file():
            raise RepositoryError(f"{KEPT}/{name}: no such file; `make methods` writes it, Git has the committed one")
    folder.mkdir()
    for name in SHARED:
        _copy(repository.root / name, folder / name)
    for path in kept.iterdir():
        if path.is_symlink():  # what the page links to
            continue
        _copy(path, folder / path.name if path.name in OWN else folder / "reports" / path.name)
    return True


def same(repository: Repository, other: Repository) -> Finding:
    """The run of every method (`other`) and that of the default ones differ in their methods alone."""
    tally = Tally("parameters", "parameters are those of params.yaml, its methods every_method")
    here, there = repository.yaml("params.yaml"), other.yaml("params.yaml")
    for key in sorted({*here, *there} - {"methods"}):
        tally.expect(here.get(key) == there.get(key), f"{KEPT}/params.yaml: {key} is not that of params.yaml")
    every = there.get("methods") == here.get("every_method")
    tally.expect(every, f"{KEPT}/params.yaml: methods are not every_method of params.yaml")
    return tally.finding()


def _copy(source: Path, target: Path) -> None:
    """Compiled files and the pipeline of the studies, which is audited with the default methods, are left out."""
    target.parent.mkdir(exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "dvc.*"))
    elif source.exists():
        shutil.copy(source, target)
