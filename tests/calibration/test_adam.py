"""Adam on one tensor takes the very steps of torch.optim.Adam."""

import subprocess
import sys

import pytest
import torch

from pipeline.calibration.adam import Adam


@pytest.mark.parametrize("weight_decay", [0.0, 5e-4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_points_are_those_of_torch(weight_decay: float, dtype: torch.dtype):
    rng = torch.Generator().manual_seed(0)
    point = torch.randn(3, 5, generator=rng, dtype=dtype)
    expected = point.clone()
    adam, reference = Adam(point, 0.02, weight_decay), torch.optim.Adam([expected], lr=0.02, weight_decay=weight_decay)
    for _ in range(7):
        expected.grad = torch.randn(3, 5, generator=rng, dtype=dtype)
        adam.step(expected.grad)
        reference.step()
        assert torch.equal(point, expected)


def test_no_compiler_is_imported():
    program = (
        "import sys, torch; from pipeline.calibration.adam import Adam; "
        "Adam(torch.zeros(2), 0.1).step(torch.ones(2)); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
