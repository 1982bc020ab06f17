"""Print the headline table of every suite that ran, and where the report lies. No stage of the pipeline: the end of
`make repro`."""

import sys
from pathlib import Path

from pipeline.params import load
from pipeline.runtime import store


def main() -> None:
    """Print reports/tables/<suite>.md for the suites of params.yaml; letters that the terminal lacks as escapes."""
    sys.stdout.reconfigure(errors="backslashreplace")
    for suite in load(["suites"])["suites"]:
        print(store.read_text(Path("reports/tables") / f"{suite}.md"))
    print(f"The whole report: {Path('reports/index.html').resolve()}")


if __name__ == "__main__":
    main()
