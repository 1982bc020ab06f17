"""The report, rendered again from the evidence: every table, sentence, caption, page, metric and figure, byte by byte.

This is the one check that runs the code of the report, which `lock: code` holds to the hashes of the run. It tells an
edited digit from a computed one; whether the computation is right is for the checks that share no code with it.
Figures depend on the versions of the packages that draw them: with other versions than requirements.lock pins they are
left out, and their data are compared.
"""

import re
from importlib import import_module
from importlib.metadata import version
from pathlib import PurePosixPath

from pipeline.audit.environment import versions
from pipeline.audit.finding import Finding, Tally
from pipeline.audit.repository import EVIDENCE, Repository
from pipeline.runtime.errors import BenchmarkError

MADE = ("tables/", "figures/", "plots/", "studies/", "metrics.json", "index.html")
"""What of reports/ is rendered."""
DRAWN = (".svg", ".pdf", ".png")
DRAWING = ("matplotlib", "numpy", "pillow")
AROUND = 20
"""Characters that a complaint shows around the first difference."""


def check(repository: Repository, suites: list[str]) -> list[Finding]:
    """One finding: the files of reports/ are what the evidence gives."""
    tally = Tally("rendered again", "files of reports/ are what the evidence gives")
    if not repository.names(EVIDENCE):
        tally.absent.append(EVIDENCE)
        return [tally.finding()]
    made = _made(tally, repository, suites)
    drawn = bool(made) and all(version(name) in pins for name, pins in _pinned(repository).items())
    if made and not drawn:
        tally.absent.append(f"figures but for their data: other versions of {', '.join(DRAWING)} are installed")
    shown = {name.removeprefix("reports/") for name in repository.names("reports")}
    for name in sorted(made.keys() | {name for name in shown if name.startswith(MADE)}) if made else ():
        path = f"reports/{name}"
        if name.endswith(DRAWN) and not drawn:
            continue
        if name not in made:
            tally.expect(False, f"{path} does not follow from the evidence")
        elif (content := repository.bytes(path)) is None:
            tally.expect(False, f"{path} is missing")
        else:
            tally.expect(*_same(path, content, made[name], drawn))
    return [tally.finding()]


def _made(tally: Tally, repository: Repository, suites: list[str]) -> dict[str, bytes]:
    """{path in reports/: content}; what stops the rendering goes to the tally."""
    try:
        render, view = (import_module(f"pipeline.report.{name}") for name in ("render", "view"))
    except ImportError as error:
        tally.absent.append(f"reports/ (rendering needs {error.name})")
        return {}
    look, folder = view.Look(**repository.yaml("params.yaml")["report"]), repository.root / EVIDENCE
    try:
        made = render.report([folder / "suites" / suite for suite in suites], look)
        for suite in suites:
            if not (folder / "studies" / suite).is_dir():
                tally.absent.append(f"studies of {suite}: none")
                continue
            studied = render.studies_report(folder / "studies" / suite, look)
            made |= {f"studies/{suite}/{name}": content for name, content in studied.items()}
    except BenchmarkError as error:
        tally.expect(False, f"nothing can be rendered: {error}")
        return {}
    return made


def _pinned(repository: Repository) -> dict[str, set[str]]:
    pinned = versions(repository.text("requirements.lock") or "")
    return {name: pinned.get(name, set()) for name in DRAWING}


def _same(path: str, content: bytes, made: bytes, drawn: bool) -> tuple[bool, str]:
    """Whether a file is what was made, and where they part."""
    if not drawn and PurePosixPath(path).suffix == ".html":
        content, made = (re.sub(rb"(?s)<svg.*?</svg>", b"", page) for page in (content, made))
    if content == made:
        return True, ""
    place = next((index for index, pair in enumerate(zip(content, made, strict=False)) if len({*pair}) > 1), None)
    if place is None:
        return False, f"{path} has {len(content):,} bytes, the evidence gives {len(made):,}"
    if path.endswith(DRAWN):
        return False, f"{path} is another picture than the evidence gives"
    texts = (part[max(0, place - AROUND) : place + AROUND].decode("utf-8", "replace") for part in (content, made))
    return False, "{}, line {}: “{}”, the evidence gives “{}”".format(path, 1 + content[:place].count(b"\n"), *texts)
