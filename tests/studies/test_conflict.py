"""Conflict: what is permuted and what is shared, the bound in closed form, and the view of made-up scores."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import normalize

from pipeline import methods
from pipeline.embedded import training
from pipeline.methods import samerging
from pipeline.models.suite import SuiteFolder
from pipeline.report.studies import Context
from pipeline.report.studies.conflict import view
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Schedule
from pipeline.runtime.stage import Job
from pipeline.studies import conflict as study
from pipeline.studies.conflict import COLUMNS, Params, TooFewSources, pair_tasks, permute_classes
from pipeline.suites import lora, mini
from stages.studies import conflict as stage

pytestmark = pytest.mark.usefixtures("one_process")

RECIPE = mini.Recipe(
    seed=0, train_images=24, validation_images=16, test_images=20, width=32, layers=1, caption_noise=0.5,
    pretrain_steps=2, pretrain_batch=8, pretrain_lr=0.002, expert_steps=2, expert_batch=4, expert_lr=0.001,
)  # fmt: skip
DEFINITION = mini.Definition(tasks=["textures", "signs"])
SCHEDULE = Schedule(lr=0.01, steps=2, batch_size=2)
PARAMS = Params(sources=[0, 1, 6], degrees=[0.0, 0.5, 1.0], partners=2, seed=3)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedded suite of two tasks."""
    folder = tmp_path_factory.mktemp("embedded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMERGING_WORKERS", "1")
        mini.train(DEFINITION, RECIPE, folder / "checkpoints")
        mini.prepare("two", DEFINITION, RECIPE, folder / "checkpoints", folder / "suite")
    return folder / "suite"


def make_job(embedded: Path, folder: Path, **changes: object) -> Job:
    """Make a small job of the stage."""
    values = {key: methods.load(key.partition(".")[2]).Params() for key in (*stage.FREE, *stage.BASELINES)}
    values |= samerging.Params().model_dump()
    values |= {"schedule.{suite}": SCHEDULE, "calibration_split": "train", "precision": "float32"}
    values |= {"samples_per_task": 6, "evaluation_split": "test", "recipe.{suite}": RECIPE, "study.conflict": PARAMS}
    output = folder / "scratch" / "conflict.csv"
    output.parent.mkdir(parents=True)
    return Job({}, values | changes, (embedded,), (output,), Resumable(folder / "cells"))


def test_smoke(embedded, tmp_path):
    work = make_job(embedded, tmp_path)
    stage.run(work)
    frame = pd.read_csv(work.outputs[0], dtype={"right": "str"})
    print(frame.drop(columns="right").to_string())
    titles = {name: methods.load(name).TITLE for name in methods.names()}
    v = view(frame, Context("two", ("textures", "signs"), titles, 40.0, 95.0, {}, "train", "test", {}, 6.5, 1))
    print("\n".join(v.sentences))
    for t in v.tables.values():
        print(t.rows.to_string())
    v.figures["conflict"].figure.savefig("/tmp/h3-fig.png")
