"""params.yaml: its schema and its only reader.

Stage `check` checks the whole file before any other stage starts; a stage then gets exactly the values that it
declares. All settings that change a number are in params.yaml; where stages run, and in how many processes, is set by
environment variables (SAMERGING_DEVICE, SAMERGING_WORKERS).
"""

import re
from collections.abc import Container, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from pipeline import methods, studies, suites
from pipeline.diagnostics import Settings
from pipeline.methods.samerging import Params as SAMergingParams
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError, abbreviate
from pipeline.runtime.schema import DISTINCT, Parameters, Precision, Schedule
from pipeline.steps.rescale import Rescale
from pipeline.steps.surgery import Surgery
from pipeline.steps.svc import Calibration

PATH = Path("params.yaml")
FLOATS = (1e-12, 1e6)
"""Magnitudes of every float but 0: far beyond any sensible value, and float32 neither overflows nor loses them."""
INTEGERS = 10**9
"""The largest magnitude of an integer: it fits wherever torch, NumPy or the file formats take one."""


SECTIONS = ("merge", "calibrate", "recipe", "study")
"""The sections whose entries a method, a suite's family or a study defines."""


class ParamsError(BenchmarkError):
    """An invalid params.yaml; the message has a line per problem: key, value, expectation, nearest valid name."""


Names = Annotated[list[str], DISTINCT]


class Methods(Parameters):
    """The baselines to run, data-free (`merge`) or with images (`calibrate`), and the merges to refine."""

    merge: Names
    calibrate: Names
    svc: Names
    rescale: Names
    surgery: Names


class Report(Parameters):
    """The look of tables and figures; no number depends on it."""

    dpi: int = Field(ge=50, le=1200)
    width: float = Field(gt=1, le=20)
    decimals: int = Field(ge=0, le=4)


class Params(SAMergingParams):
    """Every key of params.yaml; SAMerging's own parameters are top-level."""

    suites: Annotated[Names, Field(min_length=1)]
    methods: Methods
    every_method: Methods
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), DISTINCT]
    samples_per_task: int = Field(ge=1)
    calibration_split: Literal["train", "validation", "test"]
    evaluation_split: Literal["test", "validation"]
    precision: Precision
    schedule: dict[str, Schedule]
    svc: Calibration
    rescale: Rescale
    surgery: Surgery
    diagnose: Settings
    studies: Annotated[Names, Field(min_length=1)]
    study: dict[str, Any]
    merge: dict[str, Any]
    calibrate: dict[str, Any]
    recipe: dict[str, Any]
    report: Report


def load(keys: Iterable[str], path: Path = PATH) -> dict[str, Any]:
    """Return the checked values of the dotted `keys`; entries of SECTIONS that are not asked for stay unchecked.

    "merge.ties" gives that method's `Params`, "recipe.<suite>" its family's `Recipe`, "schedule.<suite>" a `Schedule`.
    Raises ParamsError with a line per problem.
    """
    problems: list[str] = []
    params = _top_level(read(path), problems)
    values = {}
    for key in keys:
        value, (section, _, name) = _value(params, key), key.partition(".")
        if name and section in SECTIONS:
            value = _sections(section, {name: value}, _schemas(section, name), problems).get(name)
        values[key] = value
    if problems:
        raise ParamsError(_lines(problems))
    return values


def read(path: Path) -> Any:
    """Return the unchecked content of the file; ParamsError if it is missing or not valid YAML."""
    if not path.exists():
        raise ParamsError(f"{path.resolve()}: no such file; run from the root of the repository")
    try:
        return store.read_yaml(path)
    except store.StoreError as error:
        raise ParamsError(str(error)) from error


def _schemas(section: str, wanted: str = "") -> dict[str, type[Parameters]]:
    """Return the schemas of the entries that a section may have, by name: of all, or at most of the `wanted` one."""
    package = {"recipe": suites, "study": studies}.get(section, methods)
    names = [name for name in package.names() if wanted in ("", name)]
    if section == "recipe":
        return {name: suites.load(name)[0].Recipe for name in names}
    if section == "study":
        return {name: studies.load(name).Params for name in names}
    modules = {name: methods.load(name) for name in names if name != "samerging"}  # its parameters are top-level
    return {name: module.Params for name, module in modules.items() if hasattr(module, section)}


def _top_level(content: Any, problems: list[str]) -> Params:
    """Return the parameters, the entries of SECTIONS unchecked; raise ParamsError, with `problems`, if that fails."""
    if not isinstance(content, dict):
        raise ParamsError(f"params.yaml: expected a mapping of parameters, found {type(content).__name__}")
    defaults = [key for key, field in Params.model_fields.items() if not field.is_required()]
    problems += [f"{key}: missing; add it to params.yaml" for key in defaults if key not in content]
    params = _model(Params, content, "", problems)
    if params is None:
        raise ParamsError(_lines(problems))
    return params


def _value(params: Params, key: str) -> Any:
    value: Any = params
    for part in key.split(".", 1):
        entries = dict(value)
        if part not in entries:
            raise ParamsError(f"params.yaml: no {key}{_nearest(part, entries)}; expected one of {_list(entries)}")
        value = entries[part]
    return value


def check(content: Any) -> Params:
    """Return the validated parameters; ParamsError with a line per problem if there is one."""
    problems: list[str] = []
    params = _top_level(content, problems)
    schemas = {section: _schemas(section) for section in SECTIONS}
    sections = {key: _sections(key, getattr(params, key), schemas[key], problems) for key in SECTIONS}
    data_free, recipes, defined = schemas["merge"], sections["recipe"], schemas["recipe"]
    _check_run("studies", "study", "study", params.studies, schemas["study"], params.study, problems)
    for where in ("methods", "every_method"):
        lists = getattr(params, where)
        for key in ("merge", "calibrate"):
            entries = getattr(params, key)
            _check_run(f"{where}.{key}", key, "method", getattr(lists, key), schemas[key], entries, problems)
        _check_refined(where, lists, methods.names(), problems)
    for name in params.svc.alpha.keys() - data_free.keys():
        problems.append(
            f"svc.alpha.{name}: no such method{_nearest(name, data_free)}; expected one of {_list(data_free)}"
        )
    for name in params.schedule.keys() - defined.keys():
        problems.append(f"schedule.{name}: no such suite{_nearest(name, defined)}; expected one of {_list(defined)}")
    for name in params.suites:
        if name not in defined:
            problems.append(
                f"suites: {name!r}: no such suite{_nearest(name, defined)}; expected one of {_list(defined)}"
            )
        elif name not in params.recipe or name not in params.schedule:
            problems.append(f"suites: {name!r} needs the entries recipe.{name} and schedule.{name}")
        elif name in recipes:
            family, definition = suites.load(name)
            _check_batch(params, name, family.sizes(definition, recipes[name]), problems)
    checked = params.model_copy(update=sections)
    _check_magnitudes("", checked.model_dump(), problems)
    if problems:
        raise ParamsError(_lines(problems))
    return checked


def _check_run(
    where: str,
    section: str,
    kind: str,
    names: Iterable[str],
    known: Iterable[str],
    entries: Mapping[str, Any],
    problems: list[str],
) -> None:
    """Add a problem for every method or study (`kind`) to run that is not `known` or has no entry in its section."""
    for name in names:
        if name not in known:
            problems.append(f"{where}: {name!r}: no such {kind}{_nearest(name, known)}; expected one of {_list(known)}")
        elif name not in entries:
            problems.append(
                f"{where}: {name!r} has no parameters; expected an entry {section}.{name} ({{}} if it has none)"
            )


def _check_refined(where: str, lists: Methods, known: Container[str], problems: list[str]) -> None:
    """Add a problem for every merge to refine that does not run."""
    data_free = [name for name in lists.merge if name in known]
    running = ["samerging", *data_free, *(name for name in lists.calibrate if name in known)]
    scalable = [*running, *(f"{name}-svc" for name in lists.svc if name in data_free)]
    for key, merges in (("svc", data_free), ("rescale", scalable), ("surgery", running)):
        problems += [
            f"{where}.{key}: {name!r} does not run{_nearest(name, merges)}; expected one of {_list(merges)}"
            for name in getattr(lists, key)
            if name not in merges
        ]


def _check_magnitudes(key: str, value: Any, problems: list[str]) -> None:
    """Add a problem for every number in `value` that is beyond FLOATS or INTEGERS."""
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _check_magnitudes(f"{key}.{name}" if key else str(name), inner, problems)
    elif isinstance(value, float) and value and not FLOATS[0] <= abs(value) <= FLOATS[1]:
        problems.append(f"{key} = {value}: expected 0 or a magnitude from {FLOATS[0]:g} to {FLOATS[1]:g}")
    elif isinstance(value, int) and abs(value) > INTEGERS:
        problems.append(f"{key} = {abbreviate(value)}: expected a magnitude of at most {INTEGERS:,}")


def _check_batch(params: Params, suite: str, sizes: Mapping[str, Mapping[str, int]], problems: list[str]) -> None:
    """Add a problem for every task whose calibration pool is smaller than a batch; `sizes`: {task: {split: images}}."""
    batch = params.schedule[suite].batch_size
    for task, splits in sizes.items():
        pool = splits[params.calibration_split]
        if batch > pool:
            problems.append(
                f"schedule.{suite}.batch_size = {batch}: above the calibration pool of {task} "
                f"({pool} examples in its {params.calibration_split} split); expected at most {pool}"
            )


def _sections(
    key: str, entries: Mapping[str, Any], models: Mapping[str, type[Parameters]], problems: list[str]
) -> dict[str, Parameters]:
    """Return the validated entries of a section, by name; add a problem for every other entry."""
    sections = {}
    for name, content in entries.items():
        if name not in models:
            nearest = _nearest(name, models)
            problems.append(f"{key}.{name}: no such entry{nearest}; expected one of {_list(models)}")
        elif not isinstance(content, dict):
            problems.append(
                f"{key}.{name} = {abbreviate(content)}: expected a mapping of parameters ({{}} for the defaults)"
            )
        elif (model := _model(models[name], content, f"{key}.{name}.", problems)) is not None:
            sections[name] = model
    return sections


def _model(model: type[Parameters], content: Mapping[str, Any], prefix: str, problems: list[str]) -> Any:
    """Return `content` as a `model`, or None after adding its problems, with keys that start with `prefix`."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems.extend(_line(problem, model, prefix) for problem in error.errors(include_url=False))
        return None


def _line(problem: Mapping[str, Any], model: type[Parameters], prefix: str) -> str:
    """Return one of pydantic's errors as a line of ParamsError."""
    where = ".".join((prefix.removesuffix("."), *map(str, problem["loc"]))).lstrip(".")  # no loc: of several values
    if problem["type"] == "extra_forbidden":
        fields = model.model_fields
        for part in problem["loc"][:-1]:
            inner = fields[part].annotation if part in fields else None
            fields = getattr(inner, "model_fields", Schedule.model_fields)
        known = _list(fields) or "none at all"
        nearest = _nearest(str(problem["loc"][-1]), fields)
        return f"{where} = {abbreviate(problem['input'])}: no such parameter{nearest}; expected one of {known}"
    if problem["type"] == "missing":
        return f"{where}: missing; add it to params.yaml"
    message = problem["msg"].removeprefix("Value error, ")
    nearest = ""
    if problem["type"] == "literal_error":
        options = [option.strip("' ") for option in re.split(",| or ", problem["ctx"]["expected"])]
        nearest = _nearest(problem["input"], options)
    return f"{where} = {abbreviate(problem['input'])}: {message[0].lower()}{message[1:]}{nearest}"


def _nearest(name: Any, known: Iterable[str]) -> str:
    close = get_close_matches(name[:80], [*known], n=1, cutoff=0.5) if isinstance(name, str) else []
    return f"; did you mean {close[0]!r}?" if close else ""


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _lines(problems: list[str]) -> str:
    return "\n".join(["params.yaml is not valid:", *(f"  {problem}" for problem in problems)])
