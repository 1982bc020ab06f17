"""Runs beside the default one differ from it in what their `make` command sets, and in nothing else."""

import shutil
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from pipeline.audit import kept
from pipeline.audit.repository import gather
from tests.support import toy

LORA = (
    "suites=[mini-8-lora]",
    "methods.merge=${every_method.merge}",
    "methods.calibrate=${every_method.calibrate}",
    f"methods.rescale=[{','.join(kept.LORA_RESCALED)}]",
    "methods.surgery=[]",
)
LANGUAGE = (
    "suites=[mini-lm]",
    "studies=[language]",
    *(f"methods.{key}=[{','.join(names)}]" for key, names in kept.LANGUAGE_METHODS.items()),
)
TEXT = (
    "suites=[text-5]",
    "methods.merge=${every_method.merge}",
    f"methods.calibrate=[{','.join(kept.TEXT_CALIBRATED)}]",
    "methods.svc=${every_method.svc}",
    "methods.rescale=[]",
    "methods.surgery=[]",
)


@pytest.mark.parametrize(
    ("run", "overrides", "wrong"),
    [
        ("text", TEXT, []),
        ("text", TEXT[:2], ["methods"]),
        ("text", (*TEXT, "rho=0.5"), ["rho"]),
        ("text", TEXT[1:], ["suites"]),
        ("methods", ("methods=${every_method}",), []),
        ("methods", TEXT, ["methods", "suites"]),
        ("language", LANGUAGE, []),
        ("language", LANGUAGE[2:], ["studies", "suites"]),
        ("language", LANGUAGE[:2], ["methods"]),
        ("lora", LORA, []),
        ("lora", LORA[:1], ["methods"]),
        ("lora", LORA[1:], ["suites"]),
    ],
)
def test_parameters_of_a_kept_run(tmp_path: Path, run: str, overrides: tuple[str, ...], wrong: list[str]):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        shutil.copy(toy.ROOT / "params.yaml", tmp_path / name)
    apply_overrides(str(tmp_path / "there/params.yaml"), [*overrides])
    finding = kept.check(gather(tmp_path / "here"), run, gather(tmp_path / "there"))
    assert finding.wrong == [f"reports/{run}/params.yaml: {key} is not what `make {run}` sets" for key in wrong]
    assert finding.compared > 10
