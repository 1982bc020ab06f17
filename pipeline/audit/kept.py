"""Runs kept outside the workspace, reports/<run> -> a folder like a repository, to be audited as one.

`make methods`, `make text`, `make lora` and `make language` keep the parameters, the lock and the report of a run. Its
code is the code of this commit; of its data/ there is what its report restores.
"""

import shutil
from pathlib import Path

from pipeline.audit.finding import Finding
from pipeline.audit.repository import Repository, RepositoryError

RUNS = {"methods": "every method", "text": "text", "lora": "low-rank experts", "language": "language models"}
"""{run: its title}."""
SUITES = {"text": ["text-5"], "lora": ["mini-8-lora"], "language": ["mini-lm"]}
"""{run: its suites, where they are not those of params.yaml}."""
STUDIES = {"language": ["language"]}
"""{run: its studies, where they are not those of params.yaml}."""
LORA_RESCALED = (
    "average", "task_arithmetic", "ties", "tsv_m", "iso_c", "do_merging", "do_merging_lora", "knots", "core_space",
    "esm",
)  # fmt: skip
"""What `make lora` rescales."""
TEXT_CALIBRATED = (
    "regmean", "esm", "adamerging", "distillation", "lot", "m_ties", "m_ties_keep_20", "m_ties_random",
    "expert_merging", "expert_merging_logits", "adarank", "adarank_kl", "pm_merge",
)  # fmt: skip
"""What `make text` calibrates beside SAMerging."""
LANGUAGE_METHODS = {
    "merge": ["zeroshot", "individual", "average", "task_arithmetic", "ties", "tsv_m"],
    "calibrate": ["adamerging", "expert_merging", "distillation"],
    "svc": [],
    "rescale": [],
    "surgery": [],
}
"""What `make language` runs beside SAMerging."""
AT_ROOT = ("params.yaml", "dvc.lock")
"""Files of the root that the run keeps next to its report; all others there are of reports/."""
STUDIES_LOCK = "studies.lock"
"""The lock of the studies, of a run that has some of its own."""
SHARED = ("dvc.yaml", ".dvcignore", "requirements.lock", "benchmarks", "pipeline", "stages")


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
    finding, here, there = Finding("parameters", "parameters are those that make sets"), repository.params, other.params
    every = here.get("every_method") or {}
    merges = {key: every.get(key) for key in ("merge", "calibrate")}
    methods = {
        "methods": every,
        "text": {
            "merge": every.get("merge"),
            "calibrate": [*TEXT_CALIBRATED],
            "svc": every.get("svc"),
            "rescale": [],
            "surgery": [],
        },
        "lora": {**here.get("methods", {}), **merges, "rescale": [*LORA_RESCALED], "surgery": []},
        "language": LANGUAGE_METHODS,
    }
    set_by_make = {"suites": SUITES.get(run, here.get("suites")), "studies": STUDIES.get(run, here.get("studies"))}
    expected = {**here, **set_by_make, "methods": methods[run]}
    for key in sorted({*expected, *there}):
        same = there.get(key) == expected.get(key)
        finding.expect(same, f"reports/{run}/params.yaml: {key} is not what `make {run}` sets")
    return finding


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder, but no compiled files, nor the studies' pipeline: the default methods' audit has it."""
    target.parent.mkdir(exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "dvc.*"))
    elif source.exists():
        shutil.copy(source, target)
