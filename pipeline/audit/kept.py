"""Runs kept outside the workspace, reports/<run> -> a folder like a repository, to be audited as one.

`make methods`, `make text`, `make lora` and `make language` keep the parameters, the lock and the report of a run. Its
code is the code of this commit; of its data/ there is what its report restores.
"""

import re
import shutil
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from pipeline.audit.finding import Finding
from pipeline.audit.repository import Repository, RepositoryError
from pipeline.audit.stages import lookup

RUNS = {"methods": "every method", "text": "text", "lora": "low-rank experts", "language": "language models"}
"""{run: its title}."""
AT_ROOT = ("params.yaml", "dvc.lock")
"""Files of the root that the run keeps next to its report; all others there are of reports/."""
STUDIES_LOCK = "studies.lock"
"""The lock of the studies, of a run that has some of its own."""
MAKEFILE = "Makefile"
SETTING = re.compile(r"-S '([\w.]+)=([^']*)'")
"""A key of params.yaml that a `make` command sets, and its value."""
SHARED = ("dvc.yaml", ".dvcignore", "requirements.lock", "pyproject.toml", "benchmarks", "pipeline", "stages")


def unfold(repository: Repository, run: str, folder: Path) -> bool:
    """Make `folder` the repository of a run; return False if it was not kept.

    Raises RepositoryError if its parameters or its lock are missing.
    """
    kept = repository.root / "reports" / run
    if not kept.is_dir():
        return False
    for name in AT_ROOT:
        if not (kept / name).is_file():
            raise RepositoryError(
                f"reports/{run}/{name}: no such file; `make {run}` writes it, Git has the committed one"
            )
    folder.mkdir()
    for name in SHARED:
        _copy(repository.root / name, folder / name)
    for path in kept.iterdir():
        if not path.is_symlink():  # the page links to shared files
            _copy(path, folder / path.name if path.name in AT_ROOT else folder / "reports" / path.name)
    if (lock := folder / "reports" / STUDIES_LOCK).is_file():
        lock.rename(folder / "stages/studies/dvc.lock")
        _copy(repository.root / "stages/studies/dvc.yaml", folder / "stages/studies/dvc.yaml")
    return True


def check(repository: Repository, run: str, other: Repository) -> Finding:
    """Check that a run (`other`) and that of the default parameters differ in what its `make` command sets alone."""
    finding, there = Finding("parameters", "parameters are those that make sets"), other.params
    makefile = repository.text(MAKEFILE)
    if makefile is None:
        return finding.skip(MAKEFILE)
    expected = set_parameters(repository.params, makefile, run)
    for key in sorted({*expected, *there}):
        same = there.get(key) == expected.get(key)
        finding.expect(same, f"reports/{run}/params.yaml: {key} is not what `make {run}` sets")
    return finding


def set_parameters(params: Mapping[str, Any], makefile: str, run: str) -> dict[str, Any]:
    """Return `params` with what the variable of a run in the Makefile sets; RepositoryError if there is none."""
    variable = re.search(rf"^{run.upper()} :=((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    if variable is None:
        raise RepositoryError(f"{MAKEFILE}: no {run.upper()}, what `make {run}` sets; get the file of this commit")
    expected = deepcopy(dict(params))
    for key, text in SETTING.findall(variable[1]):
        *parents, last = key.split(".")
        place = lookup(expected, ".".join(parents)) if parents else expected
        template = re.fullmatch(r"\$\$\{([\w.]+)\}", text)
        place[last] = lookup(params, template[1]) if template else yaml.safe_load(text)
    return expected


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder, but no compiled files, nor the studies' pipeline: the default methods' audit has it."""
    target.parent.mkdir(exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "dvc.*"))
    elif source.exists():
        shutil.copy(source, target)
