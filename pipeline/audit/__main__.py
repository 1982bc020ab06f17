"""`python -m pipeline.audit`: audit the repository in the current folder, or a bundle; exit code 0 if all holds."""

import argparse
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.audit import (
    archive,
    arithmetic,
    contrasts,
    documents,
    draws,
    environment,
    images,
    lock,
    methods,
    rendered,
    rerun,
)
from pipeline.audit.finding import Finding, guarded
from pipeline.audit.repository import Repository, RepositoryError, gather
from pipeline.runtime.errors import BenchmarkError

RESULT = Path("reports/audit.json")


def audit(repository: Repository) -> list[Finding]:
    """All checks that compute nothing anew, of the default methods' run and of that of every method."""
    suites, widest = _suites(repository), repository
    found = _run(repository)
    with tempfile.TemporaryDirectory(prefix="audit-") as scratch:
        folder = Path(scratch) / "methods"
        if methods.unfold(repository, folder):
            widest = gather(folder)
            same = guarded("methods", lambda: [methods.same(repository, widest)])
            found += [replace(one, name=f"every method, {one.name}") for one in [*same, *_run(widest)]]
        found += guarded("documents", lambda: [documents.check(repository, widest, suites)])
        return [*found, *guarded("environment", lambda: environment.check(repository))]


def _run(repository: Repository) -> list[Finding]:
    suites = _suites(repository)
    found = [*guarded("lock", lambda: lock.check(repository))]
    found += guarded("rendered again", lambda: rendered.check(repository, suites))
    for suite in suites:
        for kind in (arithmetic, contrasts, images, draws):
            name = f"{suite}: {kind.__name__.rpartition('.')[2]}"
            found += guarded(name, partial(kind.check, repository, suite))
    return found


def _suites(repository: Repository) -> list[str]:
    """The suites that params.yaml names."""
    given = repository.yaml("params.yaml")
    suites = given.get("suites") if isinstance(given, dict) else None
    if not isinstance(suites, list) or not all(isinstance(name, str) for name in suites):
        raise RepositoryError(f"params.yaml: expected a list `suites` of names, found {suites!r}; get the file again")
    return suites


def main(given: Sequence[str] | None = None) -> int:
    """Print a line per finding and write reports/audit.json; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.audit", description="Are these numbers true?")
    parser.add_argument("--bundle", type=Path, help="audit this archive instead of the current folder")
    parser.add_argument("--rerun", type=int, default=0, metavar="N", help="compute N stages, chosen at random, again")
    parser.add_argument("--seed", type=int, help="of the choice of stages; by default another one every time")
    chosen = parser.parse_args(given)
    try:
        with tempfile.TemporaryDirectory(prefix="audit-") as scratch:
            found = []
            root = Path()
            if chosen.bundle:
                root = Path(scratch) / "bundle"
                found.append(archive.unpack(chosen.bundle, root))
            repository = gather(root)
            found += audit(repository)
            if chosen.rerun:
                seed = secrets.randbelow(1 << 32) if chosen.seed is None else chosen.seed
                found += guarded("rerun", lambda: rerun.check(repository, chosen.rerun, seed, Path(scratch)))
    except BenchmarkError as error:
        sys.exit(f"audit: {error}")
    sys.stdout.reconfigure(errors="backslashreplace")  # a locale without UTF-8
    for one in found:
        print(one.line())
    verdicts = [one.verdict for one in found]
    failed, blind = verdicts.count("FAIL"), verdicts.count("none")
    print(f"{verdicts.count('ok')} checks hold, {failed} FAIL, {blind} had nothing at hand to compare")
    if not chosen.bundle:
        _write(found)
    return int(failed > 0)


def _write(found: Sequence[Finding]) -> None:
    """Write RESULT in one step."""
    temporary = RESULT.with_suffix(".json.new")
    text = json.dumps([one.plain() for one in found], indent=1, ensure_ascii=False)
    temporary.write_text(f"{text}\n", "utf-8")
    os.replace(temporary, RESULT)  # noqa: PTH105


if __name__ == "__main__":
    sys.exit(main())
