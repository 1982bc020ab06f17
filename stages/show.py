"""Print the headline table of every suite that ran, and the path of the report. Not a stage; ends `make repro`."""

import sys
from io import TextIOWrapper
from pathlib import Path

from pipeline.params import load
from pipeline.runtime import store


def main() -> None:
    """Print reports/tables/<suite>.md for the suites of params.yaml; characters that the terminal lacks as escapes."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    for suite in load(["suites"])["suites"]:
        print(store.read_text(Path("reports/tables") / f"{suite}.md"))
    print(f"The whole report: {Path('reports/index.html').resolve()}")


if __name__ == "__main__":
    main()
