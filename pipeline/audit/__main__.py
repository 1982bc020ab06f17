"""`python -m pipeline.audit`: audit the repository in the current folder, or a bundle; exit code 0 if all holds."""

import argparse
import io
import json
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
    conflict,
    contrasts,
    documents,
    draws,
    environment,
    examples,
    kept,
    label_spaces,
    lock,
    rendered,
    rerun,
)
from pipeline.audit.finding import Finding, run_check
from pipeline.audit.repository import Repository, gather
from pipeline.audit.suite import AuditedSuite
from pipeline.runtime.errors import BenchmarkError

RESULT = Path("reports/audit.json")
PER_SUITE = {
    "arithmetic": arithmetic,
    "contrasts": contrasts,
    "conflict": conflict,
    "label_spaces": label_spaces,
    "examples": examples,
    "draws": draws,
}


def audit(repository: Repository) -> list[Finding]:
    """Run every check that reruns no stage, on the default run and on each kept run."""
    findings, runs = _audit_run(repository), {}
    with tempfile.TemporaryDirectory(prefix="audit-") as scratch:
        for run, title in kept.RUNS.items():
            folder = Path(scratch) / run
            if kept.unfold(repository, run, folder):
                runs[run] = gather(folder)
                parameters = run_check(run, partial(_check_parameters, repository, run, runs[run]))
                further = [*parameters, *_audit_run(runs[run])]
                findings += [replace(finding, name=f"{title}, {finding.name}") for finding in further]
        findings += run_check("documents", lambda: [documents.check(repository, runs)])
    return findings


def _check_parameters(repository: Repository, run: str, other: Repository) -> list[Finding]:
    return [kept.check(repository, run, other)]


def _audit_run(repository: Repository) -> list[Finding]:
    suites = [AuditedSuite(repository, name) for name in repository.suites]
    findings = [*run_check("lock", lambda: lock.check(repository))]
    findings += run_check("rendered again", lambda: [rendered.check(repository)])
    for suite in suites:
        for name, module in PER_SUITE.items():
            findings += run_check(f"{suite.name}: {name}", partial(module.check, suite))
    return [*findings, *run_check("environment", lambda: [environment.check(repository)])]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line per finding and write reports/audit.json; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.audit", description="Are these numbers true?")
    parser.add_argument("--bundle", type=Path, help="audit this archive instead of the current folder")
    parser.add_argument("--rerun", type=int, default=0, metavar="N", help="compute N stages, chosen at random, again")
    parser.add_argument("--seed", type=int, help="of the choice of stages; by default another one every time")
    options = parser.parse_args(arguments)
    findings, root = [], Path()
    try:
        with tempfile.TemporaryDirectory(prefix="audit-") as scratch:
            if options.bundle:
                root = Path(scratch) / "bundle"
                findings.append(archive.unpack_bundle(options.bundle, root))
            repository = gather(root)
            findings += audit(repository)
            if options.rerun:
                seed = secrets.randbelow(1 << 32) if options.seed is None else options.seed
                findings += run_check("rerun", lambda: rerun.check(repository, options.rerun, seed, Path(scratch)))
    except BenchmarkError as error:
        sys.exit(f"audit: {error}")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a locale without UTF-8
    for finding in findings:
        print(finding.line())
    verdicts = [finding.verdict for finding in findings]
    failed, blind = verdicts.count("FAIL"), verdicts.count("none")
    print(f"{verdicts.count('ok')} checks hold, {failed} FAIL, {blind} had nothing to compare")
    if not options.bundle:
        text = json.dumps([finding.plain() for finding in findings], indent=1, ensure_ascii=False)
        temporary = RESULT.with_suffix(".json.new")
        temporary.write_text(f"{text}\n", "utf-8")
        temporary.replace(RESULT)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
