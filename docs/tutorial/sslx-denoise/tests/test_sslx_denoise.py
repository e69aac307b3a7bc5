"""The promises of sslx's contract, and what is this objective's own."""

import torch
from ssl_core import Geometry, Layout, Segment, testing

from sslx_denoise.objective import Denoise


@testing.parametrize(Denoise)
def test_keeps_its_promises(check):
    check()


@testing.parametrize(Denoise, options={"drop": 0.0, "sigma": 0.1})
def test_keeps_them_with_little_noise(check):
    check()


def test_noise_and_share_are_those_asked_for():
    layout = Layout([Segment("row", (8,), "continuous", 4)])
    objective = Denoise(Denoise.Options(drop=0.25), layout, 16, None)
    draws = objective.draw(512, torch.Generator().manual_seed(0), Geometry())
    assert abs(draws["noise"].std() - 1) < 0.01
    assert abs(draws["kept"].mean() - 0.75) < 0.03
