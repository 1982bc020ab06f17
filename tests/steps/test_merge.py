"""Minimum memory of a data-free merge: the bound against measurements, and the error where it does not fit."""

import json
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from benchmarks import RESULTS
from benchmarks.synthetic import config
from pipeline.models.suite import SuiteFolder
from pipeline.models.weights import FROZEN, build_clip, split_qkv
from pipeline.steps import merge

MEASURED = sorted(RESULTS.glob("data_free-cpu-*.json"))


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_the_minimum_is_just_below_the_cheapest_measured_merge(path: Path):
    content = json.loads(path.read_text("utf-8"))
    arguments = content["arguments"]
    with torch.device("meta"):
        tower = build_clip(config(arguments["backbone"], arguments["blocks"])).visual
    shapes = {name: tensor.shape for name, tensor in split_qkv(dict(tower.named_parameters())).items()}
    least = (
        merge.minimum_memory({name: shapes[name] for name in shapes if name not in FROZEN}, arguments["tasks"]) / 2**20
    )
    assert 0.8 * min(row["peak_mib"] for row in content["rows"].values()) < least
    assert all(least < row["peak_mib"] for row in content["rows"].values())


def test_a_merge_that_does_not_fit_is_refused_before_it_starts(pristine_suite: Path, monkeypatch):
    folder, cpu = SuiteFolder(pristine_suite), torch.device("cpu")
    merge.check_memory(folder, cpu)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 28))
    with pytest.raises(merge.TooLarge, match=r"merging 3 experts of .* takes at least 0\.5 GiB .* on cpu, 0\.2"):
        merge.check_memory(folder, cpu)
