"""Both dvc.yaml files: which change reruns which stages, and whether they declare what the stage scripts use.

Nothing is computed here. The stages of stages/studies/dvc.yaml are called studies.<name>@<suite>.
"""

import ast
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, reduce
from importlib import import_module
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx
import pytest
from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo
from dvc.stage import PipelineStage
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import modify_yaml
from ruamel.yaml import YAML

from pipeline.runtime.stage import Stage
from stages.__main__ import main as generate
from tests.support import toy

RENDER = frozenset({"render"})
REPORT = RENDER | {"collect@mini-8"}
EVERY = YAML(typ="safe").load(Path("params.yaml"))["every_method"]
DATA_FREE, LEARNED, SPECTRAL, SCALED, ADAPTED = (
    tuple(EVERY[key]) for key in ("merge", "calibrate", "svc", "rescale", "surgery")
)
CONVENTIONS = (".matrices", ".positional_embedding")
LEARNERS = frozenset({"adamerging", "distillation", "samerging"})
CLASSICS = frozenset({"zeroshot", "individual", "average", "task_arithmetic", "ties", "tsv_m"})
SWEPT = frozenset({"task_arithmetic", "ties", "dare", "consensus", "pcb", "tsv_m", "iso_c", "iso_cts", "wudi"})
DECOMPOSING = frozenset({"iso_c", "iso_cts", "tsv_m", "wudi", "opcm", "ace", "dc_merge", "do_merging", "esm"})
COMPARED = {
    "ablation": frozenset({"samerging"}),
    "conflict": LEARNERS | CLASSICS - {"zeroshot", "individual"},
    "conventions": DECOMPOSING,
    "efficiency": LEARNERS,
    "flatness": frozenset({"samerging"}),
    "label_spaces": LEARNERS | CLASSICS - {"zeroshot", "individual"},
    "landscape": LEARNERS | {"task_arithmetic"},
    "language": LEARNERS | CLASSICS | {"expert_merging"},
    "protocol": LEARNERS,
    "replicates": LEARNERS | CLASSICS | {"iso_c", "regmean"},
    "robustness": LEARNERS | CLASSICS,
    "sensitivity": LEARNERS | SWEPT,
    "tasks": LEARNERS | CLASSICS,
    "theory": LEARNERS | CLASSICS - {"zeroshot", "individual"},
}
"""The methods of every study."""
VARIED = {
    "ablation": {"sharpness", "initial_coefficient"},
    "conflict": {"seeds"},
    "conventions": {"rho", "sharpness", "temperature", "initial_coefficient", "weight_decay"},
    "efficiency": {"samples_per_task"},
    "flatness": {"sharpness", "samples_per_task"},
    "label_spaces": {"seeds"},
    "landscape": {"evaluation_split"},
    "language": set(),
    "protocol": {"calibration_split", "samples_per_task"},
    "replicates": set(),
    "robustness": set(),
    "sensitivity": {"seeds"},
    "tasks": {"seeds"},
    "theory": {"seeds", "evaluation_split"},
}
"""The parameters of the main run that a study replaces or does not use; it depends on all others."""


def studies(*names: str) -> frozenset[str]:
    """These studies, what is collected of them, and their report."""
    collected = frozenset(f"studies.collect@mini-8-{name}" for name in names)
    return collected.union(f"studies.{name}@mini-8" for name in (*names, "render"))


def comparing(*methods: str) -> frozenset[str]:
    """The studies of any of these methods, and their report."""
    names = [study for study, compared in COMPARED.items() if compared & {*methods}]
    return (studies(*names) if names else NOTHING) | (CONTEXT if {"zeroshot", "individual"} & {*methods} else NOTHING)


def sharing(parameter: str) -> frozenset[str]:
    """The studies that take a parameter from the main run, and their report."""
    return studies(*(study for study, varied in VARIED.items() if parameter not in varied))


def calibrated(*names: str) -> frozenset[str]:
    """The stages of SVC on these methods, and of its scale without labels."""
    kinds = ("svc@mini-8-{}", "evaluate-svc@mini-8-{}", "rescale@mini-8-{}-svc", "evaluate-rescaled@mini-8-{}-svc")
    return frozenset(kind.format(name) for name in names for kind in kinds)


def further(name: str) -> frozenset[str]:
    """The stages that take a method's merge further, and the report."""
    scaled = {f"rescale@mini-8-{name}", f"evaluate-rescaled@mini-8-{name}"} if name in SCALED else set()
    operated = {f"surgery@mini-8-{name}", f"evaluate-surgery@mini-8-{name}"} if name in ADAPTED else set()
    return frozenset(scaled | operated) | (calibrated(name) if name in SPECTRAL else NOTHING) | REPORT


def main(name: str) -> frozenset[str]:
    """The stages of a method in the main run, and the report."""
    kinds = ("merge", "evaluate") if name in DATA_FREE else ("calibrate", "evaluate-calibrated")
    return further(name).union(f"{kind}@mini-8-{name}" for kind in kinds)


def select(stages: frozenset[str], *kinds: str) -> frozenset[str]:
    """The stages of these kinds, and the report."""
    return frozenset(name for name in stages if name.split("@")[0] in kinds) | REPORT


NOTHING: frozenset[str] = frozenset()
CHECK = frozenset({"check"})
"""The stage that depends on params.yaml as a file, so on every key of it."""
STUDIES = studies(*COMPARED)
CONTEXT = frozenset({"studies.context@mini-8", "studies.render@mini-8"})
STUDIES_REPORT = CONTEXT.union(f"studies.collect@mini-8-{name}" for name in COMPARED)
RENDERS = RENDER | {"studies.render@mini-8"}
SAMERGING = frozenset({"samerging@mini-8", "evaluate-samerging@mini-8"}) | further("samerging")
MERGED = frozenset().union(*map(main, DATA_FREE))
BASELINES = frozenset().union(*map(main, LEARNED))
CALIBRATED = SAMERGING | BASELINES
DIAGNOSIS = frozenset({"diagnose@mini-8"}) | REPORT
PREPARED = frozenset({"prepare@mini-8", "teach@mini-8"}) | DIAGNOSIS | MERGED | CALIBRATED
MAIN = PREPARED | {"train@mini-8"}
EVERYTHING = MAIN | STUDIES | CONTEXT
UNTRAINED = PREPARED | STUDIES | CONTEXT
"""Everything but the training: its checkpoints travel in git, so that only its own code may rerun it."""
RESCALES = select(MAIN, "rescale", "evaluate-rescaled")
SURGERIES = select(MAIN, "surgery", "evaluate-surgery")
SPECTRA = calibrated(*SPECTRAL) | REPORT
FURTHER = RESCALES | SURGERIES
EVALUATES = frozenset(name for name in MAIN if name.startswith("evaluate")) | REPORT

RERUNS: dict[str, frozenset[str]] = (
    {
        # What runs. The stages that a new suite or method adds are the subject of tests of their own.
        "suites": RENDER,
        "studies": frozenset({"studies.render@mini-8"}),
        "every_method.merge": NOTHING,
        "every_method.calibrate": NOTHING,
        "every_method.svc": NOTHING,
        "every_method.rescale": NOTHING,
        "every_method.surgery": NOTHING,
        "methods.merge": REPORT,
        "methods.calibrate": REPORT,
        "methods.svc": REPORT,
        "methods.rescale": REPORT,
        "methods.surgery": REPORT,
        # What all calibrated methods share.
        "seeds": CALIBRATED | FURTHER | sharing("seeds"),
        "samples_per_task": CALIBRATED | SURGERIES | sharing("samples_per_task"),
        "calibration_split": CALIBRATED | FURTHER | DIAGNOSIS | {"teach@mini-8"} | sharing("calibration_split"),
        "evaluation_split": EVALUATES | CONTEXT | sharing("evaluation_split"),
        "precision": CALIBRATED | STUDIES,
        # The method under study.
        "rho": SAMERGING | sharing("rho"),
        "sharpness": SAMERGING | sharing("sharpness"),
        "temperature": SAMERGING | sharing("temperature"),
        "initial_coefficient": SAMERGING | sharing("initial_coefficient"),
        "weight_decay": SAMERGING | sharing("weight_decay"),
        "schedule.mini-8.lr": CALIBRATED | STUDIES,
        "schedule.mini-8.steps": CALIBRATED | STUDIES,
        "schedule.mini-8.batch_size": CALIBRATED | STUDIES,
        "schedule.nano-3.lr": NOTHING,
        "schedule.nano-3.steps": NOTHING,
        "schedule.nano-3.batch_size": NOTHING,
        # Merges that are taken further.
        "svc.alpha.tsv_m": SPECTRA,
        "rescale.samples": RESCALES,
        "rescale.temperature": RESCALES,
        "rescale.factors": RESCALES,
        "surgery.rank": SURGERIES,
        "surgery.lr": SURGERIES,
        "surgery.steps": SURGERIES,
        "surgery.batch_size": SURGERIES,
        "diagnose.samples": DIAGNOSIS,
        "diagnose.images": DIAGNOSIS,
        "diagnose.keep": DIAGNOSIS,
        "diagnose.scale": DIAGNOSIS,
        "diagnose.subsets": DIAGNOSIS,
        "diagnose.seed": DIAGNOSIS,
        # The suites themselves.
        "recipe.mini-8.seed": EVERYTHING,
        "recipe.mini-8.train_images": EVERYTHING,
        "recipe.mini-8.validation_images": EVERYTHING,
        "recipe.mini-8.test_images": EVERYTHING,
        "recipe.mini-8.width": EVERYTHING,
        "recipe.mini-8.layers": EVERYTHING,
        "recipe.mini-8.caption_noise": EVERYTHING,
        "recipe.mini-8.pretrain_steps": EVERYTHING,
        "recipe.mini-8.pretrain_batch": EVERYTHING,
        "recipe.mini-8.pretrain_lr": EVERYTHING,
        "recipe.mini-8.expert_steps": EVERYTHING,
        "recipe.mini-8.expert_batch": EVERYTHING,
        "recipe.mini-8.expert_lr": EVERYTHING,
        "recipe.nano-3.seed": NOTHING,
        "recipe.nano-3.train_images": NOTHING,
        "recipe.nano-3.validation_images": NOTHING,
        "recipe.nano-3.test_images": NOTHING,
        "recipe.nano-3.width": NOTHING,
        "recipe.nano-3.layers": NOTHING,
        "recipe.nano-3.caption_noise": NOTHING,
        "recipe.nano-3.pretrain_steps": NOTHING,
        "recipe.nano-3.pretrain_batch": NOTHING,
        "recipe.nano-3.pretrain_lr": NOTHING,
        "recipe.nano-3.expert_steps": NOTHING,
        "recipe.nano-3.expert_batch": NOTHING,
        "recipe.nano-3.expert_lr": NOTHING,
        "schedule.mini-8-lora.lr": NOTHING,
        "schedule.mini-8-lora.steps": NOTHING,
        "schedule.mini-8-lora.batch_size": NOTHING,
        "recipe.mini-8-lora.seed": NOTHING,
        "recipe.mini-8-lora.train_images": NOTHING,
        "recipe.mini-8-lora.validation_images": NOTHING,
        "recipe.mini-8-lora.test_images": NOTHING,
        "recipe.mini-8-lora.width": NOTHING,
        "recipe.mini-8-lora.layers": NOTHING,
        "recipe.mini-8-lora.rank": NOTHING,
        "recipe.mini-8-lora.expert_steps": NOTHING,
        "recipe.mini-8-lora.expert_batch": NOTHING,
        "recipe.mini-8-lora.expert_lr": NOTHING,
        "schedule.text-5.lr": NOTHING,
        "schedule.text-5.steps": NOTHING,
        "schedule.text-5.batch_size": NOTHING,
        "recipe.text-5.seed": NOTHING,
        "recipe.text-5.length": NOTHING,
        "recipe.text-5.train_texts": NOTHING,
        "recipe.text-5.validation_texts": NOTHING,
        "recipe.text-5.test_texts": NOTHING,
        "recipe.text-5.scale": NOTHING,
        "recipe.text-5.expert_steps": NOTHING,
        "recipe.text-5.expert_batch": NOTHING,
        "recipe.text-5.expert_lr": NOTHING,
        "schedule.mini-lm.lr": NOTHING,
        "schedule.mini-lm.steps": NOTHING,
        "schedule.mini-lm.batch_size": NOTHING,
        "recipe.mini-lm.seed": NOTHING,
        "recipe.mini-lm.length": NOTHING,
        "recipe.mini-lm.train_texts": NOTHING,
        "recipe.mini-lm.validation_texts": NOTHING,
        "recipe.mini-lm.test_texts": NOTHING,
        "recipe.mini-lm.general_texts": NOTHING,
        "recipe.mini-lm.width": NOTHING,
        "recipe.mini-lm.layers": NOTHING,
        "recipe.mini-lm.share": NOTHING,
        "recipe.mini-lm.pretrain_steps": NOTHING,
        "recipe.mini-lm.pretrain_batch": NOTHING,
        "recipe.mini-lm.pretrain_lr": NOTHING,
        "recipe.mini-lm.expert_steps": NOTHING,
        "recipe.mini-lm.expert_batch": NOTHING,
        "recipe.mini-lm.expert_lr": NOTHING,
        # How the reports look.
        "report.dpi": RENDERS,
        "report.width": RENDERS,
        "report.decimals": RENDERS,
    }
    | {
        # A method's parameters rerun the method and the studies that compare it, whatever they are.
        f"{section}.{name}{leaf}": main(name) | comparing(name)
        for section, methods in (
            (
                "merge",
                {
                    "zeroshot": ("",),
                    "individual": ("",),
                    "average": ("",),
                    "task_arithmetic": (".scale",),
                    "ties": (".keep", ".scale", ".aggregate"),
                    "ties_keep_80": (".keep", ".scale", ".aggregate"),
                    "dare": (".drop", ".scale", ".seeds"),
                    "dare_ties": (".drop", ".keep", ".scale", ".aggregate", ".seeds"),
                    "consensus": (".threshold", ".min_tasks", ".scale"),
                    "pcb": (".keep", ".clip", ".scale"),
                    "nan": (".scope", ".scale"),
                    "nan_weights": (".scope", ".scale"),
                    "do_merging": (*CONVENTIONS, ".scale"),
                    "arcee_fusion": (".scale",),
                    "rkl_fusion": (".drop", ".scale"),
                    "opcm": (*CONVENTIONS, ".alpha", ".seeds"),
                    "tsv_m": (*CONVENTIONS, ".scale"),
                    "iso_c": (*CONVENTIONS, ".scale"),
                    "iso_cts": (*CONVENTIONS, ".common", ".scale"),
                    "wudi": (*CONVENTIONS, ".solver", ".lr", ".steps", ".scale"),
                    "ace": (*CONVENTIONS, ".eps", ".share", ".scale"),
                    "dc_merge": (*CONVENTIONS, ".keep", ".scale"),
                    "emr": ("",),
                    "smile": (".rank", ".gate_rank"),
                    "do_merging_lora": (".rank", ".penalty", ".lr", ".steps", ".scale"),
                    "knots": (".keep", ".scale", ".aggregate"),
                    "core_space": (".rank", ".cores", ".scale"),
                    "factor_average": (".rank", ".scale"),
                    "rmm": (".rank", ".directions"),
                    "feature_ensemble": ("",),
                    "feature_ensemble_base": ("",),
                    "logit_ensemble": ("",),
                },
            ),
            (
                "calibrate",
                {
                    "fisher": (".samples", ".classes", ".normalise", ".floor"),
                    "regmean": (".samples", ".off_diagonal", ".ridge"),
                    "regmean_pp": (".samples", ".off_diagonal", ".ridge"),
                    "pm_merge": (".samples", ".classes"),
                    "lot": (".samples", ".tolerance"),
                    "m_ties": (".keep", ".reach", ".scale", ".samples"),
                    "m_ties_keep_20": (".keep", ".reach", ".scale", ".samples"),
                    "m_ties_random": (".keep", ".reach", ".scale", ".samples", ".seeds"),
                    "esm": (*CONVENTIONS, ".samples", ".scale"),
                    "prodistill": (".initial_coefficient", ".samples", ".lr", ".epochs", ".batch_size"),
                    "adamerging_taskwise": (".initial_coefficient", ".weight_decay", ".clamp"),
                    "adamerging_taskwise_pp": (".keep", ".initial_coefficient", ".weight_decay", ".clamp"),
                    "adamerging": (".initial_coefficient", ".weight_decay", ".clamp"),
                    "adamerging_pp": (".keep", ".initial_coefficient", ".weight_decay", ".clamp"),
                    "symerge": (".initial_coefficient", ".lr", ".head_lr", ".clamp"),
                    "distillation": (".temperature", ".initial_coefficient", ".weight_decay"),
                    "expert_merging": (".temperature", ".hidden", ".anchor", ".initial_coefficient", ".clip"),
                    "expert_merging_logits": (".temperature", ".anchor", ".initial_coefficient", ".clip"),
                    "adarank": (".initial_coefficient",),
                    "adarank_kl": (".temperature", ".initial_coefficient"),
                },
            ),
        )
        for name, leaves_of in methods.items()
        for leaf in leaves_of
    }
    | {
        # A study's parameters rerun that study.
        f"study.{name}.{leaf}": studies(name)
        for name, leaves_of in {
            "ablation": ("initial_coefficient",),
            "conflict": ("sources", "degrees", "partners", "seed"),
            "conventions": ("methods",),
            "efficiency": ("samples",),
            "flatness": ("samples", "held_out", "periods", "averaged"),
            "label_spaces": (
                *(f"others.{task}" for task in ("mnist", "letters", "street", "newsgroups", "topics")),
                "related",
                "labels",
                "seed",
            ),
            "landscape": (
                *("images", "pairs", "tasks", "points", "sharpness_images", "coefficients", "weights"),
                *("ascent_steps", "directions", "tolerance", "signs"),
            ),
            "language": ("texts", "completion", "characters", "seed"),
            "protocol": ("held_out", "samples"),
            "replicates": ("seeds",),
            "robustness": ("corruptions", "severities", "images", "seed"),
            "sensitivity": ("seeds", "rho", "temperature", "initial_coefficient", "lr", "steps", "scale"),
            "tasks": ("sizes", "subsets", "left_out", "seed", "seeds"),
            "theory": (
                *("seed", "images", "shares", "samples", "prior", "scales", "draws", "batch"),
                *("transfer_images", "subsets"),
            ),
        }.items()
        for leaf in leaves_of
    }
    | {
        # The paper's suites, of which none runs.
        f"{key}.{suite}.{leaf}": NOTHING
        for suite in (
            "glue7-gpt2",
            *(f"{group}-vit-{size}" for group in ("ta8", "tall14", "tall20") for size in ("b-32", "b-16", "l-14")),
        )
        for key, leaf in (
            ("schedule", "lr"),
            ("schedule", "steps"),
            ("schedule", "batch_size"),
            ("recipe", "seed"),
            ("recipe", "pool"),
        )
    }
)
"""Every leaf of params.yaml and the stages that run again when it changes, with suites: [mini-8] and every method."""

WITHOUT_EXTRAS = studies("conflict", "conventions", "label_spaces", "replicates", "tasks", "theory") - RENDERS
WITHOUT_DESCENT = studies("conventions") - RENDERS
SOURCES: dict[str, frozenset[str]] = {
    "pipeline/methods/ties.py": main("ties") | CONTEXT | comparing("ties"),
    "pipeline/methods/adamerging.py": main("adamerging") | CONTEXT | comparing("adamerging"),
    "pipeline/methods/samerging.py": SAMERGING | CONTEXT | STUDIES - WITHOUT_DESCENT,
    "pipeline/calibration/descent.py": CALIBRATED | CONTEXT | STUDIES - WITHOUT_DESCENT,
    "pipeline/calibration/objectives.py": CALIBRATED | RESCALES | CONTEXT | STUDIES - WITHOUT_DESCENT,
    "pipeline/calibration/sharpness.py": CALIBRATED | CONTEXT | STUDIES - WITHOUT_DESCENT,
    "pipeline/calibration/problem.py": CALIBRATED | CONTEXT | STUDIES,
    "pipeline/statistics/sampling.py": UNTRAINED,
    "pipeline/toolbox/spectra.py": DIAGNOSIS | MERGED | BASELINES | comparing(*DATA_FREE),
    "pipeline/merges/serving/masks.py": MERGED | CALIBRATED | CONTEXT | STUDIES - WITHOUT_EXTRAS,
    "pipeline/steps/rescale.py": RESCALES | studies("sensitivity"),
    "pipeline/steps/surgery.py": SURGERIES,
    "pipeline/steps/svc.py": SPECTRA,
    "pipeline/steps/refinement.py": FURTHER | SPECTRA | studies("sensitivity", "landscape"),
    "pipeline/merges/costs.py": EVALUATES | CONTEXT,
    "pipeline/studies/_trials.py": studies(
        *("ablation", "conflict", "conventions", "efficiency", "flatness", "label_spaces", "protocol", "replicates"),
        "sensitivity",
    ),
    "pipeline/studies/_corruptions.py": studies("robustness"),
    "pipeline/studies/_curvature.py": studies("landscape"),
    "pipeline/steps/evaluate.py": EVALUATES | CONTEXT | sharing("evaluation_split") - studies("language"),
    "pipeline/studies/_constructed.py": studies("conflict", "label_spaces"),
    "pipeline/studies/_teachers.py": studies("conflict", "label_spaces", "protocol", "replicates", "theory"),
    "pipeline/studies/_theory.py": studies("theory"),
    "pipeline/steps/teach.py": CALIBRATED | RESCALES | STUDIES | {"teach@mini-8"},
    "pipeline/diagnostics/prediction.py": DIAGNOSIS | studies("theory"),
    "pipeline/suites/mini.py": UNTRAINED,
    "pipeline/suites/mini-8.yaml": EVERYTHING,
    "pipeline/embedded/images.py": EVERYTHING,
    "pipeline/embedded/training.py": EVERYTHING,
    "pipeline/embedded/lora.py": EVERYTHING,
    "pipeline/embedded/language.py": EVERYTHING,
    "pipeline/runtime/stage.py": UNTRAINED | REPORT | STUDIES_REPORT | CHECK,
    "pipeline/runtime/store.py": UNTRAINED | REPORT | STUDIES_REPORT | CHECK,
    "stages/train.py": EVERYTHING,
    "pipeline/suites/nano-3.yaml": NOTHING,
    "pipeline/suites/mini-8-lora.yaml": NOTHING,
    "pipeline/suites/lora.py": UNTRAINED,
    "pipeline/suites/text-5.yaml": NOTHING,
    "pipeline/suites/text.py": UNTRAINED,
    "pipeline/suites/mini-lm.yaml": NOTHING,
    "pipeline/suites/language.py": UNTRAINED,
    "pipeline/models/encoder.py": UNTRAINED,
    "pipeline/models/task_vectors.py": UNTRAINED,
    "pipeline/params.py": NOTHING,
    "pipeline/report/figures.py": RENDERS,
    "pipeline/report/tables.py": RENDERS,
    "pipeline/report/views/published.py": RENDER,
    "pipeline/report/studies/ablation.py": frozenset({"studies.render@mini-8"}),
    "pipeline/report/evidence.py": REPORT | STUDIES_REPORT,
    "pipeline/suites/_hub.py": UNTRAINED,
    "pipeline/statistics/accuracy.py": REPORT | STUDIES_REPORT,
    "pipeline/statistics/pac_bayes.py": frozenset({"studies.render@mini-8"}),
    "stages/samerging.py": SAMERGING | studies("landscape", "language", "robustness"),
    "stages/calibrate.py": BASELINES | studies("landscape", "language", "robustness"),
    **{f"pipeline/studies/{name}.py": studies(name) for name in COMPARED},
}
"""Source files and the stages that run again when one changes."""


@cache
def code_below(folder: str) -> frozenset[str]:
    """The files in a folder of the repository that hold more than a docstring."""
    files = (toy.ROOT / folder).rglob("*.py")
    code = (file for file in files if any(not isinstance(node, ast.Expr) for node in ast.parse(file.read_text()).body))
    return frozenset(file.relative_to(toy.ROOT).as_posix() for file in code)


class Declared(NamedTuple):
    """The entry of a stage in dvc.yaml."""

    cmd: str
    params: frozenset[str]
    values: Mapping[str, Any]
    deps: frozenset[str]
    outs: tuple[str, ...]

    def files(self) -> set[str]:
        """The dependencies; a folder of code counts as its files that hold more than a docstring."""
        folders = {path for path in self.deps if path.startswith("pipeline/") and [*(toy.ROOT / path).glob("*.py")]}
        return (self.deps - folders).union(*map(code_below, folders))


class Pipeline(NamedTuple):
    """All stages, and the graph: an edge leads from a stage to one that it needs."""

    stages: dict[str, Declared]
    graph: nx.DiGraph

    def downstream(self, direct: set[str]) -> set[str]:
        """The stages and all that need them; what `check` writes is always the same, so it makes no other stage run."""
        return direct | {needing for name in direct - CHECK for needing in nx.ancestors(self.graph, name)}

    def reruns(self, leaf: str) -> set[str]:
        """The stages that run again when a leaf of params.yaml changes."""
        covers = lambda key: leaf == key or leaf.startswith(f"{key}.") or key.startswith(f"{leaf}.")  # noqa: E731
        return self.downstream({name for name, stage in self.stages.items() if any(map(covers, stage.params))})


def stage_name(stage: PipelineStage) -> str:
    """The name of a stage in its file, with its folder below stages/, if any, in front."""
    return ".".join([*Path(stage.path_in_repo).parent.parts[1:], stage.name])


def read(root: Path) -> Pipeline:
    """Read the pipeline as DVC understands it."""
    content = YAML(typ="safe").load(root / "params.yaml")
    with Repo(str(root)) as repo:
        index, stages = repo.index, {}
        for stage in index.stages:
            keys = frozenset(key for dep in stage.deps if isinstance(dep, ParamsDependency) for key in dep.params)
            stages[stage_name(stage)] = Declared(
                stage.cmd,
                keys,
                {key: reduce(getitem, key.split("."), content) for key in keys},
                frozenset(dep.def_path for dep in stage.deps if not isinstance(dep, ParamsDependency)),
                tuple(out.def_path for out in stage.outs),
            )
        graph = nx.relabel_nodes(index.graph, {stage: stage_name(stage) for stage in index.graph})
    return Pipeline(stages, graph)


def checkout(root: Path) -> Path:
    """Make a repository of what DVC reads to build its graph, with every method, as `make methods` runs them."""
    toy.copy_code(root, ("dvc.yaml", "stages/studies/dvc.yaml", "params.yaml", ".dvc/config", ".dvcignore"))
    apply_overrides(str(root / "params.yaml"), ["methods=${every_method}", f"studies=[{','.join(COMPARED)}]"])
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The pipeline of the repository as it is."""
    return read(checkout(tmp_path_factory.mktemp("checkout")))


@contextmanager
def edit_params(path: Path) -> Iterator[dict[str, Any]]:
    """Edit the content of params.yaml; DVC writes it back."""
    with modify_yaml(str(path)) as content:
        yield content


def read_changed(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Pipeline:
    """Read the pipeline with other parameters."""
    root = checkout(tmp_path)
    with edit_params(root / "params.yaml") as content:
        change(content)
    return read(root)


def changed_stages(old: Pipeline, new: Pipeline) -> set[str]:
    """The stages of both that are declared differently or read other values, and all that need them."""
    direct = {name for name in old.stages.keys() & new.stages.keys() if old.stages[name] != new.stages[name]}
    return new.downstream(direct)


def leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of everything but non-empty mappings."""
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_the_table_has_exactly_the_parameters():
    content = YAML(typ="safe").load(toy.ROOT / "params.yaml")
    assert content["suites"] == ["mini-8"]
    assert sorted(leaves(content)) == sorted(RERUNS)


@pytest.mark.parametrize("leaf", RERUNS)
def test_a_parameter_reruns_exactly_its_stages(pipeline: Pipeline, leaf: str):
    assert pipeline.reruns(leaf) == RERUNS[leaf]


@pytest.mark.long
@pytest.mark.parametrize(
    "change",
    [
        "rho=0.5",
        "merge.ties.scale=0.9",
        "samples_per_task=7",
        "calibration_split=validation",
        "evaluation_split=validation",
        "recipe.mini-8.width=128",
        "recipe.nano-3.width=128",
        "study.efficiency.samples=[2]",
        "report.dpi=77",
    ],
)
def test_the_table_holds_for_values_as_dvc_sets_them(pipeline: Pipeline, tmp_path: Path, change: str):
    root = checkout(tmp_path)
    apply_overrides(str(root / "params.yaml"), [change])  # what `dvc exp run -S` calls
    assert changed_stages(pipeline, read(root)) == RERUNS[change.split("=", maxsplit=1)[0]]


def test_the_stages_of_the_table_are_those_of_the_pipeline(pipeline: Pipeline):
    assert pipeline.stages.keys() == EVERYTHING | CHECK


@pytest.mark.parametrize("file", SOURCES)
def test_a_source_file_reruns_exactly_its_stages(pipeline: Pipeline, file: str):
    assert (toy.ROOT / file).is_file()
    direct = {name for name, stage in pipeline.stages.items() if file in stage.files()}
    assert pipeline.downstream(direct) == SOURCES[file]


def test_the_default_methods_are_known_and_enough_for_the_studies():
    content = YAML(typ="safe").load(toy.ROOT / "params.yaml")
    for key, names in content["methods"].items():
        assert names == [name for name in content["every_method"][key] if name in names]
    running = {"samerging", *content["methods"]["merge"], *content["methods"]["calibrate"]}
    apart = {"conventions", "language"}  # the one makes its own merges, the other is about another suite
    assert set().union(*(compared for study, compared in COMPARED.items() if study not in apart)) <= running


@pytest.mark.long
def test_a_new_data_free_method_runs_alone(pipeline: Pipeline, tmp_path: Path):
    def add(content: dict[str, Any]) -> None:
        content["methods"]["merge"].append("new")
        content["merge"]["new"] = {"scale": 1.0}

    altered = read_changed(tmp_path, add)
    assert altered.stages.keys() - pipeline.stages.keys() == {"merge@mini-8-new", "evaluate@mini-8-new"}
    assert changed_stages(pipeline, altered) == REPORT
    assert "pipeline/methods/new.py" in altered.stages["merge@mini-8-new"].deps
    assert altered.stages["merge@mini-8-new"].params == {"merge.new"}


@pytest.mark.long
def test_a_new_calibrated_method_runs_alone(pipeline: Pipeline, tmp_path: Path):
    def add(content: dict[str, Any]) -> None:
        content["methods"]["calibrate"].append("new")
        content["calibrate"]["new"] = {}

    altered = read_changed(tmp_path, add)
    added = {"calibrate@mini-8-new", "evaluate-calibrated@mini-8-new"}
    assert altered.stages.keys() - pipeline.stages.keys() == added
    assert changed_stages(pipeline, altered) == REPORT


@pytest.mark.long
def test_leaving_out_a_method_reruns_no_other(pipeline: Pipeline, tmp_path: Path):
    def leave_out(content: dict[str, Any]) -> None:
        for key in ("merge", "svc", "rescale"):
            content["methods"][key].remove("ties")
        content["methods"]["rescale"].remove("ties-svc")

    altered = read_changed(tmp_path, leave_out)
    assert pipeline.stages.keys() - altered.stages.keys() == main("ties") - REPORT
    assert changed_stages(pipeline, altered) == REPORT


@pytest.mark.long
@pytest.mark.parametrize(("key", "stages"), [("rescale", RESCALES), ("surgery", SURGERIES)])
def test_rescaling_and_surgery_can_be_left_out(pipeline: Pipeline, tmp_path: Path, key: str, stages: frozenset[str]):
    altered = read_changed(tmp_path, lambda content: content["methods"][key].clear())
    assert pipeline.stages.keys() - altered.stages.keys() == stages - REPORT
    assert changed_stages(pipeline, altered) == REPORT


@pytest.mark.long
def test_a_new_suite_leaves_the_others_alone(pipeline: Pipeline, tmp_path: Path):
    altered = read_changed(tmp_path, lambda content: content["suites"].append("nano-3"))
    added = altered.stages.keys() - pipeline.stages.keys()
    assert added == {name.replace("mini-8", "nano-3") for name in EVERYTHING - RENDER}
    assert changed_stages(pipeline, altered) == RENDER


def read_requested(root: Path) -> set[str]:
    """The stages of stages/studies/dvc.yaml that `make studies` runs."""
    match = re.search(r"repro (stages/studies/.*)", (toy.ROOT / "Makefile").read_text())
    assert match is not None
    with Repo(str(root)) as repo:
        needed = {stage_name(stage) for stage in repo.stage.collect(str(root / match[1]), with_deps=True)}
    return {name for name in needed if name.startswith("studies.")}


@pytest.mark.long
def test_only_the_chosen_studies_run(pipeline: Pipeline, tmp_path: Path):
    altered = read_changed(tmp_path, lambda content: content.update(studies=["ablation"]))
    assert pipeline.stages.keys() - altered.stages.keys() == {
        f"studies.collect@mini-8-{name}" for name in COMPARED.keys() - {"ablation"}
    }
    assert changed_stages(pipeline, altered) == {"studies.render@mini-8"}
    assert read_requested(tmp_path) == studies("ablation") | CONTEXT


@pytest.mark.long
def test_another_study_runs_alone(tmp_path: Path):
    few, more = (
        read_changed(tmp_path / str(len(names)), lambda content, names=names: content.update(studies=names))
        for names in (["theory"], ["ablation", "theory"])
    )
    assert more.stages.keys() - few.stages.keys() == {"studies.collect@mini-8-ablation"}
    assert changed_stages(few, more) == {"studies.render@mini-8"}
    assert read_requested(tmp_path / "2") - read_requested(tmp_path / "1") == studies("ablation") - RENDERS


@pytest.mark.long
def test_another_order_of_the_studies_renders_again_alone(pipeline: Pipeline, tmp_path: Path):
    altered = read_changed(tmp_path, lambda content: content["studies"].reverse())
    assert altered.stages.keys() == pipeline.stages.keys()
    assert changed_stages(pipeline, altered) == {"studies.render@mini-8"}


def test_the_graph_stays_small_enough_for_dvc(pipeline: Pipeline):
    """At most four stages per method of a suite, SVC on one counted as a method, its other stages included."""
    assert len(pipeline.stages) <= 4 * len([*DATA_FREE, *LEARNED, "samerging", *SPECTRAL])


def test_the_check_comes_before_every_other_stage(pipeline: Pipeline):
    assert "params.yaml" in pipeline.stages["check"].deps
    assert not pipeline.graph.edges("check")
    assert nx.ancestors(pipeline.graph, "check") == {*pipeline.stages} - {"check"}


def test_the_main_run_needs_no_study(pipeline: Pipeline):
    assert {needed for name in MAIN for needed in nx.descendants(pipeline.graph, name)} <= MAIN | CHECK


def find_script(declared: Declared) -> tuple[Stage, dict[str, str]]:
    """Find the stage script that a command runs, and its arguments by name."""
    match = re.fullmatch(r"python -m (stages\.[\w.]+)((?: [\w.-]+)*)", declared.cmd)
    assert match is not None, declared.cmd
    stage: Stage = import_module(match[1]).STAGE
    assert match[1] == f"stages.{stage.name}"
    return stage, dict(zip(stage.arguments, match[2].split(), strict=True))


SHARED: dict[str, set[str]] = {}
"""The results of `shared_code`, by the name of the stage."""


def shared_code(pipeline: Pipeline, stage: Stage) -> set[str]:
    """The code that any method of a stage imports, without the methods' own files; dvc.yaml lists it for all."""
    if stage.name not in SHARED:
        arguments = [names for other, names in map(find_script, pipeline.stages.values()) if other is stage]
        files = ({path.as_posix() for path in stage.code(names)} for names in arguments)
        methods = (f"pipeline/methods/{names['method']}.py" for names in arguments)
        SHARED[stage.name] = set().union(*(used - {method} for used, method in zip(files, methods, strict=True)))
    return SHARED[stage.name]


@pytest.mark.parametrize("name", sorted(EVERYTHING | CHECK))
def test_a_stage_declares_what_its_script_uses(pipeline: Pipeline, at_root: Path, name: str):
    declared = pipeline.stages[name]
    stage, names = find_script(declared)
    code = {path.as_posix() for path in stage.code(names)}
    if any("{method}" in module for module in stage.modules):
        code |= shared_code(pipeline, stage)
    assert declared.params == {key.format(**names) for key in stage.params}
    assert declared.files() == code | {path.format(**names) for path in stage.inputs}
    outputs = [path.format(**names) for path in stage.outputs]
    assert sorted(declared.outs) == sorted([*outputs, stage.record(names)] if stage.recorded else outputs)


def test_both_files_are_up_to_date(at_root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["stages", "--check"])
    generate()


def test_new_code_is_a_dependency_once_both_files_are_generated(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    """Until then the check fails."""
    root = checkout(workspace)
    before = read(root)
    for name in ("imported", "helping"):
        (root / f"pipeline/{name}.py").write_text("VALUE = 1\n")
    (root / "pipeline/methods/new.py").write_text("from pipeline.helping import VALUE\n")
    with (root / "pipeline/steps/surgery.py").open("a") as file:
        file.write("\n\nfrom pipeline import imported\n")
    with edit_params(root / "params.yaml") as content:
        content["methods"]["merge"].append("new")
        content["merge"]["new"] = {}
    monkeypatch.setattr("sys.argv", ["stages", "--check"])
    with pytest.raises(SystemExit, match=r"^stale: dvc\.yaml, stages/studies/dvc\.yaml; run `python -m stages`$"):
        generate()
    monkeypatch.setattr("sys.argv", ["stages"])
    generate()
    generated, added = read(root).stages, {}
    for name in before.stages:
        for path in generated[name].deps ^ before.stages[name].deps:
            added.setdefault(path, set()).add(name)
    assert added == {
        "pipeline/imported.py": {name for name in MAIN if name.startswith("surgery@")},
        "pipeline/helping.py": {
            name for name in EVERYTHING if name.startswith(("merge@", "collect@", "studies.context@"))
        },
    }
    assert "pipeline/methods" in generated["studies.context@mini-8"].deps
    assert {"pipeline/methods/new.py", "pipeline/helping.py"} <= generated["merge@mini-8-new"].deps
    monkeypatch.setattr("sys.argv", ["stages", "--check"])
    generate()


def test_every_stage_script_is_a_stage_and_is_short(pipeline: Pipeline):
    used = {find_script(declared)[0].name for declared in pipeline.stages.values()}
    files = {path.relative_to(toy.ROOT / "stages"): path for path in (toy.ROOT / "stages").rglob("[!_]*.py")}
    texts = {".".join(inside.with_suffix("").parts): path.read_text() for inside, path in files.items()}
    declaring = {name for name, text in texts.items() if "STAGE = Stage(" in text}
    assert used == declaring
    assert all(len(text.splitlines()) <= 40 for text in texts.values())


def test_every_data_path_has_one_writer(pipeline: Pipeline):
    outs = [path for stage in pipeline.stages.values() for path in stage.outs]
    assert len({*outs}) == len(outs)
    written = tuple(f"{path}/" for path in outs)
    for stage in pipeline.stages.values():
        for path in stage.deps:
            if path.startswith("data/"):
                assert any(out == f"{path}/" or out.startswith(f"{path}/") for out in written), path


def test_dvc_rewrites_params_yaml_without_a_change(tmp_path: Path):
    """`dvc exp run -S` rewrites the file: block lists, comments and numbers must be in its style."""
    path = tmp_path / "params.yaml"
    text = (toy.ROOT / "params.yaml").read_text()
    path.write_text(text)
    with edit_params(path) as content:
        content["rho"] = 0.5
    assert path.read_text() == re.sub(r"(?m)^rho: .*$", "rho: 0.5", text)


def test_every_top_level_parameter_is_explained():
    lines = (toy.ROOT / "params.yaml").read_text().splitlines()
    keys = [index for index, line in enumerate(lines) if re.match(r"\w", line)]
    assert len(keys) == len(YAML(typ="safe").load(toy.ROOT / "params.yaml"))
    assert [lines[index] for index in keys if not lines[index - 1].startswith("# ")] == []
    assert [line for line in lines if re.search(r":\s*\[[^]]|:\s*\{[^}]", line.split("#")[0])] == []
