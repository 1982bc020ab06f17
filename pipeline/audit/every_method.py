"""The run of every method, reports/methods -> a folder like a repository, to be audited as one.

`make methods` keeps the parameters, the lock and the report of that run. Its code is the code of this commit; of its
data/ there is what its report restores.
"""

import shutil
from pathlib import Path

from pipeline.audit.finding import Finding
from pipeline.audit.repository import Repository, RepositoryError

KEPT = Path("reports/methods")
AT_ROOT = ("params.yaml", "dvc.lock")
"""Files of the root that the run keeps next to its report; all others there are of reports/."""
SHARED = ("dvc.yaml", ".dvcignore", "requirements.lock", "benchmarks", "pipeline", "stages")


def unfold(repository: Repository, folder: Path) -> bool:
    """Make `folder` the repository in which every method ran; return False if the run was not kept.

    Raises RepositoryError if its parameters or its lock are missing.
    """
    kept = repository.root / KEPT
    if not kept.is_dir():
        return False
    for name in AT_ROOT:
        if not (kept / name).is_file():
            raise RepositoryError(f"{KEPT}/{name}: no such file; `make methods` writes it, Git has the committed one")
    folder.mkdir()
    for name in SHARED:
        _copy(repository.root / name, folder / name)
    for path in kept.iterdir():
        if not path.is_symlink():  # the page links to shared files
            _copy(path, folder / path.name if path.name in AT_ROOT else folder / "reports" / path.name)
    return True


def check(repository: Repository, other: Repository) -> Finding:
    """Check that the run of every method (`other`) and that of the default ones differ in their methods alone."""
    finding = Finding("parameters", "parameters are those of params.yaml, its methods every_method")
    here, there = repository.params, other.params
    for key in sorted({*here, *there} - {"methods"}):
        finding.expect(here.get(key) == there.get(key), f"{KEPT}/params.yaml: {key} is not that of params.yaml")
    same = there.get("methods") == here.get("every_method")
    finding.expect(same, f"{KEPT}/params.yaml: methods are not every_method of params.yaml")
    return finding


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder, but no compiled files, nor the studies' pipeline: the default methods' audit has it."""
    target.parent.mkdir(exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "dvc.*"))
    elif source.exists():
        shutil.copy(source, target)
