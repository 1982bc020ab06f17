"""The stages behind a merge, from its name: `ties`, `ties-svc`, `ties-svc-rescaled`, `surgery-samerging`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import methods
from pipeline.report.collect import list_references
from pipeline.report.evidence import MARK, RESCALED, Chosen, surgery_name, svc_name
from pipeline.runtime import store
from pipeline.statistics.accuracy import MAIN

RUNS = Path("data/runs")
SCORED_BY = {
    "merge": "evaluate", "calibrate": "evaluate-calibrated", MAIN: "evaluate-samerging",
    "svc": "evaluate-svc", "rescale": "evaluate-rescaled", "surgery": "evaluate-surgery",
}  # fmt: skip
"""{stage that makes a merge: stage that scores it}."""


@dataclass(frozen=True)
class Lineage:
    """What made a merge: its method, and the stages from the method to the merge."""

    suite: str
    name: str
    method: str
    """`name` without what refined the merge."""
    stages: tuple[str, ...]

    @property
    def cure(self) -> str:
        """The command that makes the merge and scores it."""
        stage = self.stages[-1]
        repro = f"run `dvc repro {SCORED_BY[stage]}@{self._item(stage)}`"
        return repro if stage == MAIN else f"list {self._start(stage)} under methods.{stage} in params.yaml and {repro}"

    def find_outdated(self, lock: Path = Path("dvc.lock")) -> str | None:
        """Return an input of a stage behind the score that `lock` says was made again after it; None if all fit."""
        stages = store.read_yaml(lock)["stages"] if lock.exists() else {}
        last = self.stages[-1]
        made = {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", ())}
        names = [f"{stage}@{self._item(stage)}" for stage in self.stages]
        names += [f"teach@{self.suite}", f"{SCORED_BY[last]}@{self._item(last)}"]
        used = [(dep["path"], dep["md5"]) for name in names for dep in stages.get(name, {}).get("deps", ())]
        return next((path for path, md5 in used if path.startswith("data/") and made.get(path) != md5), None)

    def title(self) -> str:
        """Return the title of the tables."""
        references = list_references(Chosen((self.method,), (), (self.method,), svc=(self.method,)))
        reference = references[self.name.removesuffix(RESCALED)]
        title = reference.title.removesuffix(f" {MARK}")
        return f"{title} with a scale chosen on unlabelled examples" if "rescale" in self.stages else title

    def paper(self) -> str:
        """Return the reference of the method."""
        return methods.load(self.method).PAPER

    def read_params(self) -> dict[str, Any]:
        """Read the parameters of all stages, those of the evaluation included, from their run records."""
        names = [f"{stage}-{self._item(stage)}" for stage in self.stages]
        records = [store.read_json(RUNS / f"{name}.json") for name in (*names, f"evaluate-{self.suite}-{self.name}")]
        return {key: value for record in records for key, value in record["params"].items()}

    def _item(self, stage: str) -> str:
        return self.suite if stage == MAIN else f"{self.suite}-{self._start(stage)}"

    def _start(self, stage: str) -> str:
        """Return the method whose merge a stage refines, or which it runs."""
        return svc_name(self.method) if stage == "rescale" and "svc" in self.stages else self.method


def trace(suite: str, name: str) -> Lineage | None:
    """Return the lineage of a merge; None for a name that no stage makes."""
    method = name.removeprefix(surgery_name("")).removesuffix(RESCALED).removesuffix(svc_name(""))
    refined = {
        method: (),
        svc_name(method): ("svc",),
        surgery_name(method): ("surgery",),
        f"{method}{RESCALED}": ("rescale",),
        f"{svc_name(method)}{RESCALED}": ("svc", "rescale"),
    }
    if method not in methods.names() or name not in refined:
        return None
    first = "merge" if hasattr(methods.load(method), "merge") else "calibrate"
    return Lineage(suite, name, method, (MAIN if method == MAIN else first, *refined[name]))
