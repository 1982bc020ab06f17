"""Texts become ids, labels and splits that share nothing; the tables of Orange and CSV are read as they are."""

import bz2

import numpy as np
import pytest

from pipeline.runtime.errors import BenchmarkError
from pipeline.suites import _text_splits
from pipeline.suites._corpora import Document, read_documents
from pipeline.suites._text_splits import check_labels, draw_splits, read_pool, tokenize
from pipeline.suites._text_tables import Corpus, TextTask
from tests.support import toy_wheels

TASK = TextTask(corpus="c", templates=["{}"], classes={"animals": ["cat", "dog"], "plants": ["oak"]})
TABLE = Corpus(wheel="w", terms="none", train="a.tab", test="a.tab", text="Text", label="Label")
SIZES = {"train": 20, "validation": 5, "test": 10}
LENGTH = 16


@pytest.fixture(scope="module")
def tokenizer() -> toy_wheels.Tokenizer:
    return toy_wheels.build_tokenizer()


def pool_of(texts: list[str], tokenizer: toy_wheels.Tokenizer, labels: str = "cat", groups: list[str] | None = None):
    documents = [
        Document(text, label, group)
        for text, label, group in zip(texts, [labels] * len(texts), groups or [""] * len(texts), strict=True)
    ]
    return read_pool(documents, tokenizer, LENGTH)


def sentences(count: int, seed: int = 0, words: int = 10) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(toy_wheels.FILLERS, words)) for _ in range(count)]


def test_ids_have_special_tokens_and_padding_on_the_right(tokenizer: toy_wheels.Tokenizer):
    known = tokenizer.get_vocab()
    rows = tokenize(tokenizer, ["W1 w2", "w3 w4 w5 w6 w7", " . ", ""], 5)
    assert rows.dtype == np.int32
    assert rows[0].tolist() == [2, known["w1"], known["w2"], 3, -1]
    assert rows[1].tolist() == [2, known["w3"], known["w4"], known["w5"], 3]
    assert rows[3].tolist() == [-1] * 5


def test_texts_without_tokens_and_texts_that_look_alike_are_counted(tokenizer: toy_wheels.Tokenizer):
    texts = [("w1 w2", "cat"), ("W1  w2", "cat"), ("", "cat"), ("w3", "cat"), ("w3", "oak"), ("w4", "oak")]
    pool = read_pool([Document(text, label, "") for text, label in texts], tokenizer, LENGTH)
    assert pool.removed == {"empty": 1, "duplicate": 3}  # the second copy, and both texts with two labels
    assert pool.labels == ["cat", "oak"]
    assert (pool.ids == tokenize(tokenizer, ["w1 w2", "w4"], LENGTH)).all()


def test_splits_have_the_labels_of_their_texts_and_depend_on_the_seed(tokenizer: toy_wheels.Tokenizer):
    texts = sentences(60)
    documents = [Document(text, ["cat", "dog", "oak"][at % 3], "") for at, text in enumerate(texts)]
    expected = {row.tobytes(): (0, 0, 1)[at % 3] for at, row in enumerate(tokenize(tokenizer, texts, LENGTH))}
    pool = read_pool(documents, tokenizer, LENGTH)
    pools = dict.fromkeys(SIZES, pool)
    (first, _), (again, _), (other, _) = (draw_splits({"t": TASK}, pools, SIZES, seed) for seed in (0, 0, 1))
    for split, size in SIZES.items():
        drawn = first["t"][split]
        assert len(drawn.ids) == size
        assert [expected[row.tobytes()] for row in drawn.ids] == drawn.labels.tolist()
        assert (drawn.ids == again["t"][split].ids).all()
        assert (drawn.ids != other["t"][split].ids).any()


def test_tasks_of_a_corpus_share_no_text_and_use_both_files(tokenizer: toy_wheels.Tokenizer):
    train, test = pool_of(sentences(60), tokenizer), pool_of(sentences(25, seed=1), tokenizer)
    splits, _ = draw_splits({"a": TASK, "b": TASK}, {"train": train, "validation": train, "test": test}, SIZES, 0)
    rows = [row.tobytes() for task in splits.values() for part in task.values() for row in part.ids]
    assert len(rows) == len({*rows}) == 2 * sum(SIZES.values())
    scored = {row.tobytes() for task in splits.values() for row in task["test"].ids}
    assert scored <= {row.tobytes() for row in test.ids}


def test_texts_that_share_a_run_of_tokens_are_not_in_two_splits(
    tokenizer: toy_wheels.Tokenizer, monkeypatch: pytest.MonkeyPatch
):
    """Twenty of the fifty texts quote one message: all of them that are drawn are in one split."""
    monkeypatch.setattr(_text_splits, "RUN", 6)
    quote = "w1 w2 w3 w4 w5 w6 w7"
    texts = sentences(40, words=11) + [f"{quote} {end}" for end in sentences(20, seed=1, words=4)]
    splits, near = draw_splits({"t": TASK}, dict.fromkeys(SIZES, pool_of(texts, tokenizer)), SIZES, 0)
    quoted = tokenize(tokenizer, [quote], LENGTH)[0, 1:8].tobytes()
    holding = [split for split, part in splits["t"].items() if any(quoted in row.tobytes() for row in part.ids)]
    assert len(holding) == 1
    assert sum(near["t"].values()) > 0
    monkeypatch.setattr(_text_splits, "RUN", 12)
    _, near = draw_splits({"t": TASK}, dict.fromkeys(SIZES, pool_of(texts, tokenizer)), SIZES, 0)
    assert near["t"] == dict.fromkeys(SIZES, 0)


def test_a_group_is_in_one_split_with_few_texts(tokenizer: toy_wheels.Tokenizer):
    groups = [f"film {at % 8}" for at in range(160)]
    pool = pool_of(sentences(160), tokenizer, groups=groups)
    group_of = {row.tobytes(): group for row, group in zip(pool.ids, pool.groups, strict=True)}
    splits, _ = draw_splits({"t": TASK}, dict.fromkeys(SIZES, pool), SIZES, 0)
    films = {split: [group_of[row.tobytes()] for row in part.ids] for split, part in splits["t"].items()}
    for split, names in films.items():
        assert max(map(names.count, names)) <= _text_splits.MOST
        assert not {*names} & {film for other, more in films.items() if other != split for film in more}
        stratum, clusters = splits["t"][split].clusters.T
        assert not stratum.any()
        assert len({*zip(names, clusters.tolist(), strict=True)}) == len({*names}) == len({*clusters.tolist()})


def test_too_few_texts_are_refused(tokenizer: toy_wheels.Tokenizer):
    with pytest.raises(BenchmarkError, match=r"t: only 15 texts are left for its train split, 20 .* lower train_texts"):
        draw_splits({"t": TASK}, dict.fromkeys(SIZES, pool_of(sentences(30), tokenizer)), SIZES, 0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["cat", "dog", "oak", "elm"], r"t: a\.tab has the label 'elm', which no class has"),
        (["cat", "oak"], r"t: a\.tab has no text labelled 'dog'"),
    ],
)
def test_labels_are_those_of_the_classes(labels: list[str], message: str):
    with pytest.raises(BenchmarkError, match=message):
        check_labels("t", TASK, "a.tab", [Document("w1", label, "") for label in labels])


def test_a_table_of_orange_is_read(tokenizer: toy_wheels.Tokenizer):
    content = (
        'Label\tText\tKind\nd\tstring\td\nclass\t\t\n\ncat\tsee http://x.y/z it\ta\ndog\t"a ""b""\tc"\ta\noak\tNA\tb\n'
    )
    corpus = TABLE.model_copy(update={"keep": {"Kind": ["a"]}, "strip": [r"http\S+"]})
    assert read_documents(corpus, "x/a.tab", content.encode()) == [
        Document("see   it", "cat", ""),
        Document('a "b"\tc', "dog", ""),
    ]


def test_a_packed_csv_is_read_with_groups():
    content = bz2.compress(b'text,category,movie\nNA,fresh,m1\n"two\nlines",rotten,m2\n')
    corpus = Corpus(
        wheel="w", terms="none", train="a.csv.bz2", test="a.csv.bz2", text="text", label="category", group="movie"
    )
    assert read_documents(corpus, "a.csv.bz2", content) == [
        Document("NA", "fresh", "m1"),
        Document("two\nlines", "rotten", "m2"),
    ]


@pytest.mark.parametrize(
    ("member", "content", "message"),
    [
        ("a.tab", b"Category\tText\nd\tstring\nclass\t\n", r"a\.tab: no column 'Label', it has Category, Text"),
        ("a.tab", b"", r"a\.tab: cannot be read as a table"),
        ("a.csv.bz2", b"text,Label\n", r"a\.csv\.bz2: cannot be read as a table"),
        ("a.csv.bz2", bz2.compress(b"text,Label\nx,y\n" * 99)[:40], r"a\.csv\.bz2: cannot be read as a table"),
        ("a.tab", b"Label\tText\nd\ts\nc\t\n\xff\xfe\tx\n", r"a\.tab: cannot be read as a table"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(member: str, content: bytes, message: str):
    with pytest.raises(BenchmarkError, match=message):
        read_documents(TABLE, member, content)
