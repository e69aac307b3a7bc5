"""Specifications of all hooks. A plugin is a module or an object that implements some of them with `@hookimpl`.

The `register_*` hooks are called once, when plugins are loaded. Notices are sent before, during and after a run. No
hook is called inside the training step. `docs/hooks.md` is generated from the docstrings in this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import typer

    from ssl_core.config.schema import RunConfig
    from ssl_core.contracts import Dataset, Encoder, Masking, Objective, Probe, Tokenizer
    from ssl_core.options import Preset
    from ssl_core.report.schema import Report

API_VERSION = "2.0"
"""Version of the plugin interface: hooks, contracts and public names (docs/compatibility.md)."""

hookspec = pluggy.HookspecMarker("sslx")
hookimpl = pluggy.HookimplMarker("sslx")


# --- registration: called once, when the plugins are loaded --------------------------------------------------------


@hookspec
def register_objectives() -> list[type[Objective]]:  # type: ignore[empty-body]
    """Register objectives: classes that turn tokens into a loss.

    Called:
        once, when the plugins are loaded, by every command that lists or uses plugins.

    Example:
        @hookimpl
        def register_objectives():
            return [Denoise]
    """


@hookspec
def register_tokenizers() -> list[type[Tokenizer]]:  # type: ignore[empty-body]
    """Register tokenizers: classes that turn one modality's inputs into tokens.

    The name of a tokenizer is the name of its modality.

    Called:
        once, when the plugins are loaded.

    Example:
        @hookimpl
        def register_tokenizers():
            return [Video]
    """


@hookspec
def register_datasets() -> list[type[Dataset]]:  # type: ignore[empty-body]
    """Register data sets: classes that read raw samples of one modality.

    A name must be unique within its modality. `--modality` without `--dataset` selects the data set with
    `is_default = True`.

    Called:
        once, when the plugins are loaded. A data set opens no files before a run uses it.

    Example:
        @hookimpl
        def register_datasets():
            return [MovingShapes]
    """


@hookspec
def register_maskings() -> list[type[Masking]]:  # type: ignore[empty-body]
    """Register maskings: classes that choose which tokens to hide.

    Called:
        once, when the plugins are loaded.

    Example:
        @hookimpl
        def register_maskings():
            return [Comb]
    """


@hookspec
def register_encoders() -> list[type[Encoder]]:  # type: ignore[empty-body]
    """Register encoders: classes that map embeddings to a cls token and encoded tokens.

    `encoder.name` selects the encoder of a run. Its options are `encoder.OPTION`.

    Called:
        once, when the plugins are loaded.

    Example:
        @hookimpl
        def register_encoders():
            return [ParallelEncoder]
    """


@hookspec
def register_commands() -> list[typer.Typer]:  # type: ignore[empty-body]
    """Register commands: typer apps that become `sslx NAME`.

    Name the entry point `commands.NAME`, so that `sslx --help` lists the command without loading the plugin. If the
    command raises `SslxError`, `sslx` prints its message as one line and exits with 1. With an option `debug: bool`
    that is set, it shows the traceback.

    Called:
        once, when the plugins are loaded.

    Example:
        import typer

        app = typer.Typer(name="summarise", help="Summarise runs.")

        @hookimpl
        def register_commands():
            return [app]
    """


@hookspec
def register_probes() -> list[type[Probe]]:  # type: ignore[empty-body]
    """Register probes: classes that predict labels from frozen features.

    `evaluate.probes` selects the probes of a run. Their scores are part of the report.

    Called:
        once, when the plugins are loaded.

    Example:
        @hookimpl
        def register_probes():
            return [NearestCentroid]
    """


@hookspec
def register_presets() -> list[Preset]:  # type: ignore[empty-body]
    """Register presets: option values for runs, with their source.

    A preset with `default=True` is applied automatically to every run that it matches, otherwise if `--preset` names
    it.

    Called:
        once, when the plugins are loaded.

    Example:
        from ssl_core import Preset

        @hookimpl
        def register_presets():
            values = {"encoder.dim": 128, "encoder.depth": 4, "train.steps": 300}
            return [Preset("small-video", values, "sized for two cores", modality="video")]
    """


# --- notices: sent before, during and after a run -------------------------------------------------------------------


@hookspec
def run_started(config: RunConfig, folder: Path) -> None:
    """A run starts or resumes, with its resolved configuration and its folder. Sent after the model is built.

    Called:
        once for each run, before the first step, and again when the run is resumed.

    Example:
        @hookimpl
        def run_started(config, folder):
            print(f"{config.objective.name} on {config.modality} goes to {folder}")
    """


@hookspec
def metrics_logged(folder: Path, step: int, metrics: Mapping[str, float]) -> None:
    """Metrics were written to metrics.jsonl. Keys are `train/...` and `eval/...`.

    Called:
        every `train.log_every` steps, with the scores of the online probe if there is one, and once with the final
        scores.

    Example:
        @hookimpl
        def metrics_logged(folder, step, metrics):
            if "train/loss" in metrics:
                print(f"step {step}: loss {metrics['train/loss']:.3f}")
    """


@hookspec
def run_finished(folder: Path, report: Report) -> None:
    """A run is complete and its report is written. Not sent for interrupted or failed runs.

    Called:
        once for each run, after its last step and its evaluation.

    Example:
        @hookimpl
        def run_finished(folder, report):
            (folder / "done.txt").write_text(f"{len(report.scores)} scores")
    """


@hookspec
def run_failed(folder: Path, error: BaseException) -> None:
    """An exception or a signal ended a run. Its checkpoints remain; `sslx run --resume` continues from the last one.

    Called:
        once, instead of `run_finished`, before the error is printed.

    Example:
        @hookimpl
        def run_failed(folder, error):
            print(f"{folder} stopped: {error}")
    """


@hookspec
def eval_finished(folder: Path, report: Report) -> None:
    """An evaluation of a trained encoder is complete. `folder` contains its report; `report.run` names the run.

    Called:
        once for each `sslx eval` or `sslx.evaluate`, and for each transfer set of a benchmark, after the report is
        written.

    Example:
        @hookimpl
        def eval_finished(folder, report):
            print(f"{report.dataset}: {len(report.scores)} scores in {folder}")
    """
