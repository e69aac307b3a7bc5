"""The shipped presets resolve against the shipped plugins and hold the papers' numbers."""

from __future__ import annotations

import pytest

from ssl_core import plugins
from ssl_core.assemble import build
from ssl_core.config import resolve


@pytest.fixture(scope="module")
def catalogue():
    return plugins.load()


class Waves:
    """Only what a tokenizer reads of a data set."""

    def __init__(self, rate):
        from ssl_core import Continuous

        self.fields = {"waveform": Continuous((1, None), rate)}


def test_every_preset_resolves_to_options_that_exist(catalogue):
    for entry in catalogue.presets:
        preset = entry.value
        objectives = [preset.objective] if preset.objective else ["metamae", "mae"]
        for objective in objectives:
            given = {"objective.name": objective, "modality": preset.modality or "speech"}
            given |= {"dataset.name": preset.dataset} if preset.dataset else {}
            given |= {} if preset.default else {"preset": preset.name}
            config, _ = resolve(catalogue, given)
            assert any(preset.source in source for source in config.preset_sources)


def test_metamae_on_speech_is_the_papers(catalogue):
    """Tables 7, 8 and 16 for LibriSpeech, and the trainable total of the published configuration."""
    given = {"objective.name": "metamae", "modality": "speech", "preset": "metamae"}
    config, classes = resolve(catalogue, given)
    options = config.objective.options
    assert (options["alpha"], options["lam"], options["depth"]) == (0.1, 1.0, 4)
    assert config.masking.options["ratio"] == 0.85
    assert (config.train.steps, config.train.lr, config.train.batch_size) == (100_000, 1e-4, 64)
    assert (config.encoder.dim, config.encoder.depth, config.encoder.heads, config.encoder.dropout) == (256, 12, 8, 0.0)
    learner = build(config, classes, Waves(16_000.0))
    assert learner.tokenizer.layout.segments[0].grid == (14, 14)
    total = sum(learner.parameter_counts().values())
    assert total == pytest.approx(7.37e6, rel=1e-3)


def test_an_unasked_preset_can_be_left_out(catalogue):
    config, _ = resolve(catalogue, {"objective.name": "metamae", "modality": "speech", "preset": "none"})
    assert config.preset_sources == ()
    assert config.objective.options["alpha"] == 0.5  # the class's own default
