"""The checks of sslx's contract, and tests of what is specific to this objective."""

import torch
from ssl_core import Geometry, Layout, Segment, testing

from sslx_denoise.objective import Denoise


@testing.parametrize(Denoise)
def test_conformance(check):
    check()


@testing.parametrize(Denoise, options={"drop": 0.0, "sigma": 0.1})
def test_conformance_with_little_noise(check):
    check()


def test_draws_follow_the_options():
    layout = Layout([Segment("row", (8,), "continuous", 4)])
    objective = Denoise(Denoise.Options(drop=0.25), layout, 16, {})
    draws = objective.draw(512, torch.Generator().manual_seed(0), Geometry())
    assert abs(draws["noise"].std() - 1) < 0.01
    assert abs(draws["gate"].mean() - 0.75) < 0.03
