"""The pieces of the studies that compute with an encoder, on suites of texts."""

import math
from pathlib import Path

import pytest

from pipeline.merges import storage
from pipeline.merges.storage import Merges
from pipeline.methods import samerging
from pipeline.models.suite import SuiteFolder
from pipeline.runtime import store
from pipeline.runtime.schema import Schedule
from pipeline.steps.calibrate import Setting, calibrate
from pipeline.steps.teach import compute_teacher_logits
from pipeline.studies import _landscape as landscape
from pipeline.studies import flatness, theory
from pipeline.studies._trials import score_trial
from tests.support import toy

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture
def setting(text_suite: Path, tmp_path: Path) -> Setting:
    """A short calibration by SAMerging."""
    for task in toy.TASKS:
        values = compute_teacher_logits(text_suite, task, "train").numpy()
        store.write_array(tmp_path / "teachers" / f"{task}.npy", values)
    schedule = Schedule(lr=0.05, steps=2, batch_size=3)
    return Setting(text_suite, tmp_path / "teachers", "samerging", samerging.Params(), schedule, "train", "float32")


def test_a_landscape_of_texts_is_finite_and_starts_at_the_loss(setting: Setting, tmp_path: Path):
    suite = SuiteFolder(setting.suite)
    merges = Merges((0,), dict.fromkeys(toy.TASKS, 5), suite.suite.groups, [calibrate(setting, 5, 0)])
    storage.save(merges, tmp_path / "merge")
    place, end = landscape.Place(setting.suite, "train", 4, 0, 2.0), landscape.End(tmp_path / "merge", 0)
    ((*scores,),) = landscape.score_mixtures(place, [end], [[1.0]], range(3))
    losses = [loss for loss, _, _ in scores]
    for space in ("coefficients", "weights"):
        rises = landscape.measure_rises(place, end, space, [0.05], 1, 1)
        assert rises[0] == ["worst", 0.0, pytest.approx(losses, abs=1e-6)]
        assert sum(rises[2][2]) >= sum(losses)
    spectrum = landscape.estimate_spectrum(place, end, 0.1, 2)
    assert all(math.isfinite(value) for values in spectrum.values() for value in values)
    assert sum(spectrum["eigenvalue"]) != 0


def test_theory_on_texts_is_finite_and_linear_close_to_the_start(setting: Setting):
    few = theory.Params(
        seed=0, images=3, shares=[1e-3, 1.0], samples=[2], prior=0.3, scales=[0.2], draws=2, batch=1,
        transfer_images=3, subsets=0,
    )  # fmt: skip
    rows = theory.measure_merge(setting, 5, 2.0, few)
    near, far = (
        [float(residual) / float(change) for at, _, residual, change in rows["expansions"] if at == share]
        for share in few.shares
    )
    assert len(near) == len(far) == 3
    assert max(near) < 0.1
    assert all(float(slope) > 0 for *_, slope in rows["slopes"])
    losses = [[float(value) for value in row[5:]] for row in theory.sample_risks(setting, 2, few)]
    assert all(0 <= value <= 1 for row in losses for value in row)


def test_trials_and_variants_of_texts_are_scored(setting: Setting):
    marks = score_trial(setting, 5, 0, "test")
    assert {task: row[0] for task, row in marks.items()} == dict.fromkeys(toy.TASKS, 5)
    assert {row[2] for row in marks.values()} == {toy.SIZES["test"]}
    params = flatness.Params(samples=5, held_out=3, periods=[2], averaged=0.5)
    variant = [*flatness.list_variants(params)][1]
    assert {*flatness.measure_variant(setting, params, variant, 0, "test")} == {*toy.TASKS}
