"""An embedded suite whose models are trained for two steps, in seconds."""

from pathlib import Path

import pytest

from pipeline.suites import mini

RECIPE = mini.Recipe(
    seed=0, train_images=24, validation_images=16, test_images=20, width=32, layers=1, caption_noise=0.5,
    pretrain_steps=2, pretrain_batch=8, pretrain_lr=0.002, expert_steps=2, expert_batch=4, expert_lr=0.001,
)  # fmt: skip


def train_suite(folder: Path, tasks: list[str]) -> Path:
    """Train and prepare a suite of `tasks` in one process; return its folder."""
    definition = mini.Definition(tasks=tasks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMERGING_WORKERS", "1")
        mini.train(definition, RECIPE, folder / "checkpoints")
        mini.prepare("embedded", definition, RECIPE, folder / "checkpoints", folder / "suite")
    return folder / "suite"
