"""Training and validation are disjoint, drawn by their seeds; overlap is counted by content."""

import numpy as np
import pytest
import torch

from pipeline.suites._splits import count_overlap, draw_pool, split_validation

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("total", [1020, 1880, 73257])
def test_the_validation_split_is_torchs_random_split(total: int):
    train, validation = split_validation(total)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0)).numpy()
    assert len(validation) == total // 10
    assert (train == np.sort(order[: total - total // 10])).all()
    assert (validation == np.sort(order[total - total // 10 :])).all()
    pool = train[draw_pool(len(train), 1600, 0)]
    assert len(pool) == min(1600, len(train))
    assert not {*pool.tolist()} & {*validation.tolist()}


def test_a_pool_is_drawn_by_its_seed_without_replacement():
    pool, again, other = (draw_pool(5000, 1600, seed) for seed in (0, 0, 1))
    assert len({*pool.tolist()}) == 1600
    assert (pool == again).all()
    assert (pool != other).any()
    assert (np.diff(pool) > 0).all()
    assert draw_pool(5, 1600, 0).tolist() == [0, 1, 2, 3, 4]


def test_overlap_counts_images_by_content():
    a = RNG.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    b = np.concatenate([a[[1, 4]], a[:1] + np.uint8(1)])
    assert count_overlap(a, b) == 2
    assert count_overlap(b, a) == 2
    assert count_overlap(a[[1, 1]], b) == 2
    assert count_overlap(a[:0], b) == 0
