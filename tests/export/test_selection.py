"""A request that cannot be served is refused before any work, with what to do instead."""

import json
import re
from pathlib import Path

import pytest

from pipeline.export.folder import export
from pipeline.export.lineage import trace
from pipeline.export.selection import SelectionError, select
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError

REFUSED = {
    "suite": (
        ("tinny", "samerging"),
        "no suite 'tinny'; did you mean 'tiny'?; expected one of glue7-gpt2, mini-8, mini-8-lora, mini-lm, nano-3, ta8",
    ),
    "unprepared": (
        ("nano-3", "samerging"),
        "data/suites/nano-3 is missing; list nano-3 under suites in params.yaml and run `dvc repro`",
    ),
    "method": (
        ("tiny", "samergin"),
        "no method 'samergin'; did you mean 'samerging'?; expected one of ace, adamerging",
    ),
    "refinement": (("tiny", "surgery-ties-rescaled"), "no method 'surgery-ties-rescaled'"),
    "data-free": (
        ("tiny", "ties"),
        "data/merges/tiny/ties is missing; list ties under methods.merge in params.yaml and run "
        "`dvc repro evaluate@tiny-ties`",
    ),
    "calibrated": (
        ("tiny", "regmean"),
        "list regmean under methods.calibrate in params.yaml and run `dvc repro evaluate-calibrated@tiny-regmean`",
    ),
    "rescaled": (
        ("tiny", "ties-rescaled"),
        "list ties under methods.rescale in params.yaml and run `dvc repro evaluate-rescaled@tiny-ties`",
    ),
    "svc": (
        ("tiny", "ties-svc"),
        "list ties under methods.svc in params.yaml and run `dvc repro evaluate-svc@tiny-ties`",
    ),
    "scale of an svc": (
        ("tiny", "ties-svc-rescaled"),
        "list ties-svc under methods.rescale in params.yaml and run `dvc repro evaluate-rescaled@tiny-ties-svc`",
    ),
    "svc of an svc": (("tiny", "ties-svc-svc"), "no method 'ties-svc-svc'"),
    "surgery": (
        ("tiny", "surgery-samerging"),
        "list samerging under methods.surgery in params.yaml and run `dvc repro evaluate-surgery@tiny-samerging`",
    ),
    "seed": (("tiny", "samerging", 4), "samerging: no seed 4; expected one of 3, 5"),
    "no randomness": (("tiny", "average", 0), "average has no randomness, so there is no seed 0; leave out --seed"),
    "task": (("tiny", "average", None, "cat"), "no task 'cat'; did you mean 'cats'?; expected one of cats, dogs, fish"),
    "individual": (
        ("tiny", "individual"),
        "individual is a model per task, and a folder holds one; add --task with one of cats, dogs, fish",
    ),
    "factors": (("tiny", "rmm"), "rmm is a model per task, and a folder holds one; add --task with one of cats"),
    "masks": (("tiny", "emr"), "emr is a model per task, and a folder holds one; add --task with one of cats"),
    "ensemble": (
        ("tiny", "feature_ensemble"),
        "feature_ensemble averages the features of several encoders, and a folder holds one. Export a method",
    ),
    "routed": (
        ("tiny", "smile"),
        "smile adds an expert to every matrix and routes each token to one, which no class of transformers or "
        "open_clip does; its weights alone are the pre-trained model. Export a method that merges weights",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_request_says_what_to_do(case: str, tmp_path: Path):
    arguments, message = REFUSED[case]
    suite, method, *options = arguments
    with pytest.raises(SelectionError, match=re.escape(message)):
        export(suite, method, tmp_path / "out", *options)
    assert not [*tmp_path.iterdir()]


def test_samerging_has_no_list_of_methods():
    lineage = trace("tiny", "samerging")
    assert lineage is not None
    assert lineage.cure == "run `dvc repro evaluate-samerging@tiny`"


def test_an_unscored_merge_is_refused(copied_run: Path):
    (copied_run / "data/scores/tiny/average.csv").unlink()
    with pytest.raises(SelectionError, match=r"average\.csv is missing; list average under methods\.merge"):
        select("tiny", "average")


def test_counts_of_other_seeds_alone_are_refused(copied_run: Path):
    scores = copied_run / "data/scores/tiny/samerging.csv"
    lines = [line for line in scores.read_text().splitlines(keepends=True) if not re.search(r"samerging,\w+,3,", line)]
    scores.write_text("".join(lines))
    with pytest.raises(BenchmarkError, match="no cats of seed 3; evaluate again: run `dvc repro evaluate-samerging@t"):
        export("tiny", "samerging", Path("out"), 3)


def test_a_missing_record_is_named_before_any_work(copied_run: Path):
    (copied_run / "data/runs/evaluate-tiny-average.json").unlink()
    with pytest.raises(store.StoreError, match=r"evaluate-tiny-average\.json: no such file"):
        export("tiny", "average", Path("out"))
    assert {path.name for path in copied_run.iterdir()} == {"data"}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nothing_is_overwritten(kind: str, tmp_path: Path):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        (out / "mine").mkdir(parents=True)
    with pytest.raises(BenchmarkError, match="exists and is not an empty folder; name another, nothing is overwritten"):
        export("tiny", "average", out)
    assert out.read_text() == "mine" if kind == "file" else [*out.iterdir()] == [out / "mine"]


def test_scores_of_an_earlier_suite_are_refused(copied_run: Path):
    stages = {
        "prepare@tiny": {"outs": [{"path": "data/suites/tiny", "md5": "1.dir"}]},
        "merge@tiny-average": {"outs": [{"path": "data/merges/tiny/average", "md5": "2.dir"}]},
        "evaluate@tiny-average": {
            "deps": [{"path": "data/suites/tiny", "md5": "1.dir"}, {"path": "data/merges/tiny/average", "md5": "2.dir"}]
        },
    }
    lock = copied_run / "dvc.lock"
    lock.write_text(json.dumps({"stages": stages}))
    assert select("tiny", "average").lineage.find_outdated() is None
    stages["prepare@tiny"]["outs"][0]["md5"] = "3.dir"
    lock.write_text(json.dumps({"stages": stages}))
    with pytest.raises(SelectionError, match=r"data/suites/tiny was made again after average was scored; .*dvc rep"):
        select("tiny", "average")


def test_a_merge_that_was_refined_from_an_earlier_one_is_refused(copied_run: Path):
    def used(*paths: tuple[str, str]) -> list[dict[str, str]]:
        return [{"path": f"data/{path}", "md5": md5} for path, md5 in paths]

    stages = {
        "merge@tiny-average": {"outs": used(("merges/tiny/average", "new"))},
        "surgery@tiny-average": {
            "deps": used(("merges/tiny/average", "old")),
            "outs": used(("merges/tiny/surgery-average", "1")),
        },
        "evaluate-surgery@tiny-average": {"deps": used(("merges/tiny/surgery-average", "1"))},
    }
    (copied_run / "dvc.lock").write_text(json.dumps({"stages": stages}))
    with pytest.raises(
        SelectionError, match="data/merges/tiny/average was made again after surgery-average was scored"
    ):
        select("tiny", "surgery-average")


@pytest.mark.parametrize("made", [[{"path": "data/suites/tiny", "md5": "new"}], []], ids=["made again", "made by none"])
def test_a_merge_of_another_suite_than_that_of_the_score_is_refused(copied_run: Path, made: list[dict[str, str]]):
    stages = {
        "prepare@tiny": {"outs": made},
        "merge@tiny-average": {"deps": [{"path": "data/suites/tiny", "md5": "old"}]},
        "evaluate@tiny-average": {"deps": [{"path": "data/suites/tiny", "md5": "new"}]},
    }
    (copied_run / "dvc.lock").write_text(json.dumps({"stages": stages}))
    with pytest.raises(SelectionError, match="data/suites/tiny was made again after average was scored"):
        select("tiny", "average")
