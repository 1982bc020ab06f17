"""Texts and pairs of texts of GLUE as token ids, as the experts saw them in training.

The two texts of a pair are tokenised one by one and concatenated without a separator. What is longer than the longest
allowed length is cut from the end of the longer text, token by token.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from pipeline.runtime.errors import BenchmarkError
from pipeline.suites._glue_tasks import GlueTask
from pipeline.suites._labels import check_label_column, read_labels
from pipeline.suites._parquet import Footer, find_column, holds_text, open_parquet
from pipeline.suites._splits import LEAST

END = "<|endoftext|>"
"""GPT-2's only special token. Published experts pad with it, so it must not occur in a text."""


def read_tokenizer(path: Path, title: str, longest: int) -> Tokenizer:
    """Read a tokenizer.json that adds nothing to a text, for texts of at most `longest` tokens, without padding.

    Raises BenchmarkError, with `title`, if it adds anything or lacks END.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        tokenizer = Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the library raises this very class
        raise BenchmarkError(f"{title}: cannot be read as tokenizer.json ({error}); fetch it again") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if tokenizer.token_to_id(END) is None or tokenizer.encode("a", "a").ids != 2 * tokenizer.encode("a").ids:
        raise BenchmarkError(f"{title}: expected GPT-2's tokeniser, with {END} and without any separator; take its own")
    tokenizer.enable_truncation(longest)
    return tokenizer


def end_token(tokenizer: Tokenizer) -> int:
    """Return the id of END in a tokeniser that `read_tokenizer` has read."""
    return cast("int", tokenizer.token_to_id(END))


def check_texts(task: GlueTask, train: Sequence[Footer], test: Sequence[Footer]) -> None:
    """Check columns, class names and rows of a task's parquet files by their footers; raises BenchmarkError."""
    for footer in (*train, *test):
        for column in task.text_columns:
            kind = footer.schema.field(find_column(footer, (column,))).type
            if not holds_text(kind):
                raise BenchmarkError(f"{footer.title}: {column} is {kind}, expected text")
        check_label_column(footer, task.labels)
    rows, scored = (sum(sum(footer.groups) for footer in footers) for footers in (train, test))
    if scored != task.test_size:
        raise BenchmarkError(
            f"{task.name}: {task.test_split} has {scored} rows, expected {task.test_size}; published accuracies would "
            "not be comparable"
        )
    if rows < LEAST:
        raise BenchmarkError(f"{task.name}: train has {rows} rows; at least {LEAST} are needed, 10 % become validation")


def read_split(
    task: GlueTask, paths: Sequence[Path], rows: np.ndarray | None, tokenizer: Tokenizer
) -> tuple[list[list[int]], np.ndarray]:
    """Return the token ids of each text and the labels, int64 [N], of `rows` of a split's files, or of all.

    Raises BenchmarkError that names the row for a text that is missing, has no token or contains END, and for a label
    that is none.
    """
    files = [open_parquet(path) for path in paths]
    table = pa.concat_tables([file.read(columns=[*task.text_columns]) for file in files])
    labels = np.concatenate([read_labels(path, task.labels) for path in paths])
    indices = np.arange(len(table)) if rows is None else rows
    columns = [table.column(name).take(indices).to_pylist() for name in task.text_columns]
    title = f"{task.name}: {paths[0].name}"
    for name, texts in zip(task.text_columns, columns, strict=True):
        if None in texts:
            raise BenchmarkError(f"{title}: row {indices[texts.index(None)]}: {name} is null, expected a text")
    texts = columns[0] if len(columns) == 1 else [*zip(*columns, strict=True)]
    encoded, end = [text.ids for text in tokenizer.encode_batch_fast(texts)], end_token(tokenizer)
    for row, ids in zip(indices, encoded, strict=True):
        if not ids or end in ids:
            problem = f"contains {END}, which stands for padding" if ids else "has no token"
            raise BenchmarkError(f"{title}: row {row}: the text {problem}; correct or remove the row")
    return encoded, labels[indices]
