"""All the tests that an outside plugin needs to write."""

from sslx_demo_denoise import Denoise
from sslx_demo_video import Balls, Video

from ssl_core import testing


@testing.parametrize(Denoise)
def test_denoise(check):
    check()


@testing.parametrize(Video)
def test_video(check):
    check()


@testing.parametrize(Balls)
def test_balls(check):
    check()
