"""Export a merged model to a folder that transformers and open_clip load. Not a stage; run by `make export`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.export.folder import export
from pipeline.runtime.errors import BenchmarkError


def main(arguments: Sequence[str] | None = None) -> None:
    """Export what the command line names; an error that a user can fix is one line and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m stages.export", description="Export a merged model.")
    parser.add_argument("suite", help="as in params.yaml: mini-8")
    parser.add_argument("method", help="a merge that was scored: samerging, ties-rescaled, surgery-samerging")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--seed", type=int, metavar="N", help="of the merge; by default its first")
    parser.add_argument("--task", metavar="T", help="the only task to serve; needed where a method is a model per task")
    parser.add_argument("--push", default="", metavar="REPO", help="upload to this model repository of the hub too")
    options = parser.parse_args(arguments)
    try:
        place = export(options.suite, options.method, options.out, options.seed, options.task, options.push)
    except BenchmarkError as error:
        sys.exit(f"export: {error}")
    print(f"{place}: see its README.md")


if __name__ == "__main__":
    main()
