"""The conformance kit for encoders: each check detects a broken encoder."""

import dataclasses

import pytest
import torch
from pydantic import Field
from torch import nn

from ssl_core import ConfigError, testing
from ssl_core.nn import Encoder, TransformerEncoder, mean_pool
from ssl_core.plugins import load


def changed(change):
    """An encoder whose output is changed by a function of (self, output, embeddings, position_ids, geometry)."""

    class Changed(TransformerEncoder):
        """Changed."""

        def forward(self, embeddings, position_ids=None, geometry=None, *, layers=None):
            output = super().forward(embeddings, position_ids, geometry, layers=layers)
            return output if layers is not None else change(self, output, embeddings, position_ids, geometry)

    return Changed


class NoPositions(TransformerEncoder):
    """Adds no positions."""

    def forward(self, embeddings, position_ids=None, geometry=None, *, layers=None):
        mask = None if geometry is None else geometry.valid
        if mask is not None and position_ids is not None:
            mask = mask.gather(1, position_ids)
        cls = self.cls_token.expand(len(embeddings), 1, -1)
        mask = None if mask is None else torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)
        return self.transformer(torch.cat([cls, embeddings], dim=1), key_mask=mask, layers=layers)


class ByOrder(TransformerEncoder):
    """Takes positions from the order of the tokens and ignores position_ids."""

    def forward(self, embeddings, position_ids=None, geometry=None, *, layers=None):
        ids = torch.arange(embeddings.shape[1]).expand(embeddings.shape[:2])
        return super().forward(embeddings, ids, None, layers=layers)


class NoMask(TransformerEncoder):
    """Attends to invalid tokens."""

    def forward(self, embeddings, position_ids=None, geometry=None, *, layers=None):
        return super().forward(embeddings, position_ids, None, layers=layers)


class WithNorm(TransformerEncoder):
    """Normalises over the batch."""

    def __init__(self, options, layout):
        super().__init__(options, layout)
        self.batch_norm = nn.BatchNorm1d(options.dim)

    def forward(self, embeddings, position_ids=None, geometry=None, *, layers=None):
        embeddings = self.batch_norm(embeddings.flatten(0, 1)).view(embeddings.shape)
        return super().forward(embeddings, position_ids, geometry, layers=layers)


class Spare(TransformerEncoder):
    """Has an unused layer."""

    def __init__(self, options, layout):
        super().__init__(options, layout)
        self.spare = nn.Linear(2, 2)


class Counts(TransformerEncoder):
    """Keeps state outside the state dict."""

    calls = 0

    def forward(self, embeddings, position_ids=None, geometry=None, *, layers=None):
        self.calls += self.training
        return super().forward(embeddings + self.calls, position_ids, geometry, layers=layers)


class InPlace(TransformerEncoder):
    """Writes to the embeddings."""

    def forward(self, embeddings, position_ids=None, geometry=None, *, layers=None):
        return super().forward(embeddings.detach().mul_(2.0), position_ids, geometry, layers=layers)


class PoolsAll(TransformerEncoder):
    """Pools invalid tokens, too."""

    def pool(self, encoded, valid=None):
        return mean_pool(encoded[:, 1:])


class OtherWidth(TransformerEncoder):
    """Forgets the width."""

    def __init__(self, options, layout):
        super().__init__(options, layout)
        self.dim = 7


class OneLayer(TransformerEncoder):
    """Returns the output itself for several layers."""

    def forward(self, embeddings, position_ids=None, geometry=None, *, layers=None):
        return super().forward(embeddings, position_ids, geometry)


class WrongLayer(TransformerEncoder):
    """Counts layers from zero."""

    def forward(self, embeddings, position_ids=None, geometry=None, *, layers=None):
        if layers is None:
            return super().forward(embeddings, position_ids, geometry)
        return super().forward(embeddings, position_ids, geometry, layers=[max(1, layer - 1) for layer in layers])


def without(**fields):
    """An encoder that ignores fields of the geometry."""

    class Ignores(TransformerEncoder):
        """Ignores a field of the geometry."""

        def forward(self, embeddings, position_ids=None, geometry=None, *, layers=None):
            geometry = None if geometry is None else dataclasses.replace(geometry, **fields)
            return super().forward(embeddings, position_ids, geometry, layers=layers)

    return Ignores


class Refuses(TransformerEncoder):
    """Refuses coordinates."""

    def forward(self, embeddings, position_ids=None, geometry=None, *, layers=None):
        if geometry is not None and geometry.coords is not None:
            raise ConfigError("no coordinates, please")
        return super().forward(embeddings, position_ids, geometry, layers=layers)


def overflows_in_bf16(self, output, *_):
    return output / (0.0 if torch.is_autocast_enabled("cpu") else 1.0)


def graph_break(self, output, *_):
    return output * (1.0 if output.sum().item() < 1e30 else 2.0)


BROKEN_ENCODERS = [
    ("builds", OtherWidth, "self.layout or self.dim differs from the arguments"),
    ("output_has_its_shape", changed(lambda s, out, *_: out[:, 1:]), "the output for 24 tokens is (8, 24, 32), not"),
    ("output_has_its_shape", changed(lambda s, out, *_: out / 0.0), "the output for 24 tokens is not finite"),
    ("output_has_its_shape", changed(lambda s, out, *_: (out, None)), "the output is tuple, not a tensor"),
    ("pooled_features_have_their_shape", PoolsAll, "features change with the output at invalid tokens"),
    ("token_order_does_not_matter", ByOrder, "the tokens in another order have other outputs"),
    ("invalid_tokens_influence_nothing", NoMask, "invalid tokens change the output of whole rows"),
    ("rows_are_independent", WithNorm, "other rows change the output of the first"),
    ("positions_matter", NoPositions, "a token moved from 1 to 23 changes by 0; add positions"),
    ("coords_and_bias_are_used", without(coords=None), "geometry.coords has no effect"),
    ("coords_and_bias_are_used", without(bias=None), "geometry.bias has no effect"),
    ("layers_are_listed", OneLayer, "layers=(2,) returned Tensor, not a list"),
    ("layers_are_listed", WrongLayer, "the output of the deepest layer is not that of the encoder"),
    ("gradient_reaches_every_parameter", Spare, "spare.weight, spare.bias"),
    ("gradient_reaches_every_parameter", InPlace, "embeddings have no finite gradient"),
    ("embeddings_are_not_modified", InPlace, "the embeddings: "),
    ("state_dict_round_trip", Counts, "the output after loading"),
    ("bf16_autocast_is_finite", changed(overflows_in_bf16), "the output is not finite"),
    ("compiled_equals_eager", changed(graph_break), "needs a graph break ("),
    ("compiled_equals_eager", changed(lambda s, out, *_: out * (1 + torch.compiler.is_compiling())), "differs, by up"),
]


@pytest.mark.parametrize(("name", "plugin", "got"), BROKEN_ENCODERS)
def test_broken_encoder_fails(error_of, name, plugin, got):
    assert got in error_of(plugin, name)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"positions": "learned"},
        {"dropout": 0.1, "drop_path": 0.1, "pool": "all", "layer_scale": 0.1},
        {"init": "torch", "pool": "cls", "qkv_bias": True, "act": "gelu_tanh", "norm_eps": 1e-6},
    ],
)
def test_shipped_encoder_passes(assert_all_pass, options):
    assert_all_pass(TransformerEncoder, options=options)


def test_encoder_that_refuses_coords_passes(assert_all_pass):
    assert_all_pass(Refuses)


def test_every_installed_encoder_is_covered():
    encoders = load().encoders
    assert {"transformer"} <= set(encoders)
    for entry in encoders.values():
        assert len(testing.checks(entry.value)) > 60


class Mixer(Encoder):
    """Adds the mean of all tokens to each; one layer, no options but its width."""

    name = "mixer"

    class Options(Encoder.Options):
        """Options."""

        hidden: int = Field(16, ge=1, description="hidden width")

    def __init__(self, options, layout):
        super().__init__(options, layout)
        self.cls_token = nn.Parameter(torch.randn(options.dim))
        self.table = nn.Parameter(torch.randn(layout.length, options.dim))
        self.mlp = nn.Sequential(
            nn.Linear(options.dim, options.hidden), nn.GELU(), nn.Linear(options.hidden, options.dim)
        )

    def forward(self, embeddings, position_ids=None, geometry=None, *, layers=None):
        if geometry is not None and (geometry.coords is not None or geometry.bias is not None):
            raise ConfigError("encoder 'mixer' takes neither coordinates nor a bias")
        valid = None if geometry is None else geometry.valid
        if valid is not None and position_ids is not None:
            valid = valid.gather(1, position_ids)
        row = embeddings + (self.table if position_ids is None else self.table[position_ids])
        mean = mean_pool(row, valid).unsqueeze(1)
        cls = self.cls_token + mean
        output = torch.cat([cls, row + self.mlp(row + mean)], dim=1)
        return output if layers is None else [output for _ in layers]


def test_encoder_without_attention_passes(assert_all_pass):
    assert_all_pass(Mixer)
