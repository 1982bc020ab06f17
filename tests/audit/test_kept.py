"""Runs beside the default one differ from it in what their `make` command sets, and in nothing else."""

import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from pipeline.audit import kept
from pipeline.audit.repository import RepositoryError, gather
from tests.support import toy


@cache
def settings(run: str) -> tuple[str, ...]:
    """What `make` gives to `dvc exp run -S` for a run."""
    printed = subprocess.run(["make", "-n", run], cwd=toy.ROOT, capture_output=True, text=True, check=True).stdout
    (command,) = (line for line in printed.splitlines() if line.lstrip().find("dvc exp run") >= 0)
    words = shlex.split(command)
    return tuple(words[place + 1] for place, word in enumerate(words) if word == "-S")


@pytest.mark.parametrize(
    ("run", "made", "further", "wrong"),
    [
        *((run, run, (), []) for run in kept.RUNS),
        ("text", "text", ("rho=0.5",), ["rho"]),
        ("text", "text", ("methods.rescale=[ties]",), ["methods"]),
        ("language", "language", ("study.efficiency.samples=[1]",), ["study"]),
        ("methods", "lora", (), ["methods", "suites"]),
        ("language", "language", ("studies=[theory]", "suites=[mini-8]"), ["studies", "suites"]),
    ],
)
def test_parameters_of_a_kept_run(tmp_path: Path, run: str, made: str, further: tuple[str, ...], wrong: list[str]):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        for file in ("params.yaml", kept.MAKEFILE):
            shutil.copy(toy.ROOT / file, tmp_path / name)
    apply_overrides(str(tmp_path / "there/params.yaml"), [*settings(made), *further])
    finding = kept.check(gather(tmp_path / "here"), run, gather(tmp_path / "there"))
    assert finding.wrong == [f"reports/{run}/params.yaml: {key} is not what `make {run}` sets" for key in wrong]
    assert finding.compared > 10


def test_a_run_that_the_makefile_does_not_know_is_an_error(tmp_path: Path):
    with pytest.raises(RepositoryError, match="Makefile: no TEXT, what `make text` sets"):
        kept.set_parameters({"rho": 0.1}, "LORA := -S 'rho=0.2'\n", "text")


def test_without_a_makefile_nothing_is_compared(tmp_path: Path):
    shutil.copy(toy.ROOT / "params.yaml", tmp_path)
    assert kept.check(gather(tmp_path), "text", gather(tmp_path)).verdict == "none"
