"""The report, rendered again from the evidence: every table, sentence, caption, page, metric and figure, byte by byte.

This is the one check that runs the code of the report, which `lock: code` holds to the hashes of the run. It tells an
edited digit from a computed one; whether the computation is right is for the checks that share no code with it.
Figures depend on the versions of the packages that draw them: with other versions than requirements.lock pins they are
left out, and their data are compared.
"""

import re
from importlib import import_module
from importlib.metadata import version

from pipeline.audit.environment import read_pins
from pipeline.audit.finding import Finding, first_difference
from pipeline.audit.repository import EVIDENCE, Repository
from pipeline.runtime.errors import BenchmarkError

MADE = ("tables/", "figures/", "plots/", "studies/", "metrics.json", "index.html")
"""What of reports/ is rendered."""
DRAWN = (".svg", ".pdf", ".png")
DRAWING = ("matplotlib", "numpy", "pillow")
AROUND = 20
"""Characters that a complaint shows around the first difference."""


def check(repository: Repository) -> Finding:
    """Check that the files of reports/ are what the evidence gives."""
    finding = Finding("rendered again", "files of reports/ are what the evidence gives")
    if not repository.names(EVIDENCE):
        return finding.skip(EVIDENCE)
    rendered = _render(finding, repository)
    if not rendered:
        return finding
    pins = read_pins(repository.text("requirements.lock") or "")
    drawn = all(version(name) in pins.get(name, ()) for name in DRAWING)
    if not drawn:
        finding.skip(f"figures but for their data: other versions of {', '.join(DRAWING)} are installed")
    published = {name.removeprefix("reports/") for name in repository.names("reports")}
    for name in sorted(rendered.keys() | {name for name in published if name.startswith(MADE)}):
        path = f"reports/{name}"
        if name.endswith(DRAWN) and not drawn:
            continue
        if name not in rendered:
            finding.expect(False, f"{path} does not follow from the evidence")
        elif (content := repository.bytes(path)) is None:
            finding.expect(False, f"{path} is missing")
        else:
            complaint = _difference(path, content, rendered[name], drawn)
            finding.expect(not complaint, complaint)
    return finding


def _render(finding: Finding, repository: Repository) -> dict[str, bytes]:
    """Return {path in reports/: content}; what stops the rendering goes to the finding."""
    try:
        render, view = (import_module(f"pipeline.report.{name}") for name in ("render", "view"))
    except ImportError as error:
        finding.skip(f"reports/ (rendering needs {error.name})")
        return {}
    look, folder = view.Look(**repository.params["report"]), repository.root / EVIDENCE
    try:
        rendered = render.report([folder / "suites" / suite for suite in repository.suites], look)
        for suite in repository.suites:
            if not (folder / "studies" / suite).is_dir():
                finding.skip(f"studies of {suite}: none")
                continue
            studies = render.studies_report(folder / "studies" / suite, look, repository.studies)
            rendered |= {f"studies/{suite}/{name}": content for name, content in studies.items()}
    except BenchmarkError as error:
        finding.expect(False, f"nothing can be rendered: {error}")
        return {}
    return rendered


def _difference(path: str, content: bytes, rendered: bytes, drawn: bool) -> str:
    """Return where a file is not what was rendered; empty if it is."""
    if not drawn and path.endswith(".html"):
        content, rendered = (re.sub(rb"(?s)<svg.*?</svg>", b"", page) for page in (content, rendered))
    if content == rendered:
        return ""
    place = first_difference(content, rendered)
    if place == min(len(content), len(rendered)):
        return f"{path} has {len(content):,} bytes, the evidence gives {len(rendered):,}"
    if path.endswith(DRAWN):
        return f"{path} is another picture than the evidence gives"
    texts = (part[max(0, place - AROUND) : place + AROUND].decode("utf-8", "replace") for part in (content, rendered))
    return "{}, line {}: “{}”, the evidence gives “{}”".format(path, 1 + content[:place].count(b"\n"), *texts)
