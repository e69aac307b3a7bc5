"""The trained encoder of a run's folder, or of a folder that `PretrainedEncoder.save` wrote."""

from __future__ import annotations

from pathlib import Path

from ssl_core.errors import ConfigError
from ssl_core.pipeline.measure import InputSpec
from ssl_core.plugins import Catalogue
from ssl_core.runs.build import device_of, load_checkpoint
from ssl_core.runs.encoder import PretrainedEncoder, Provenance, evaluation_in, history_of
from ssl_core.runs.fields import fields_from_json
from ssl_core.runs.run_dir import load_config
from ssl_core.runs.saved import build_parts, is_saved, load_encoder
from ssl_core.training import checkpoint
from ssl_core.training.best import LAST


def load_trained(path: Path, catalogue: Catalogue, which: str = LAST, device: str = "cpu") -> PretrainedEncoder:
    """A trained encoder in evaluation mode. torch's random generators stay as they are.

    Args:
        path: the folder of a run or of a saved encoder.
        catalogue: the plugins.
        which: the checkpoint of a run, "last" or "best".
        device: auto, cpu, cuda or cuda:N.

    Raises:
        CheckpointError: the folder holds no saved encoder, no run or no such checkpoint, or it is damaged.
        ConfigError: the plugin of the tokenizer or of the encoder is not installed, or an unknown checkpoint or device.
    """
    if is_saved(path):
        if which != LAST:
            raise ConfigError(f"{path} is a saved encoder and has no checkpoints; leave out checkpoint '{which}'")
        return load_encoder(path, catalogue).to(device_of(device)).eval()
    config, start = load_config(path), load_checkpoint(path, which)
    fields = fields_from_json(start.state["fields"])
    tokenizer, encoder = build_parts(config, fields, catalogue)
    state = start.state
    provenance = Provenance(
        path,
        start.step,
        state.get("versions", {}),
        state.get("origins", {}),
        evaluation_in(path, start.step),
        history_of(state),
    )
    data = state.get("data", {})
    model = PretrainedEncoder(tokenizer, encoder, fields, config, provenance, data.get("schema", {}))
    model.stats = data.get("stats", {})
    model.inputs = {name: InputSpec.from_json(entry) for name, entry in data.get("inputs", {}).items()}
    tensors = checkpoint.read_model(start)
    prefixes = {f"{prefix}.": f"{part}." for part, prefix in state["features"].items()}
    own = {
        part + name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        for prefix, part in prefixes.items()
        if name.startswith(prefix)
    }
    checkpoint.load_tensors(start, model, own)
    return model.to(device_of(device)).eval()
