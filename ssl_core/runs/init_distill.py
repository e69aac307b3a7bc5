"""Self-distillation for further pretraining: the teacher is an encoder that began from the same weights as the run."""

from __future__ import annotations

import copy

from ssl_core.config.schema import RunConfig
from ssl_core.errors import ConfigError
from ssl_core.runs.init import InitSource, as_option, check_encoder
from ssl_core.training.learner import Learner
from ssl_core.training.teacher import Distillation


def add_distillation(learner: Learner, config: RunConfig) -> None:
    """Give the learner a distillation, if the configuration wants one; its weights are the learner's own at first."""
    if config.init.distill is not None:
        tokenizer, encoder = copy.deepcopy(learner.tokenizer), copy.deepcopy(learner.encoder)
        learner.distillation = Distillation(tokenizer, encoder, config.init.distill_weight, config.init.distill_on)


def load_distillation(learner: Learner, config: RunConfig, teacher: InitSource, source: InitSource) -> list[str]:
    """Load the teacher's weights, and say so.

    Raises:
        ConfigError: the teacher reads other inputs than the run prepares, or has another encoder.
    """
    assert learner.distillation is not None
    path = teacher.path
    check_encoder(config, teacher)
    own, trained = config.tokenizer, teacher.tokenizer_part
    differing = next((name for name, value in trained.options.items() if own.options.get(name) != value), None)
    if own.name != trained.name or differing is not None:
        name = "name" if differing is None else differing
        now, before = (part.name if differing is None else part.options.get(name) for part in (own, trained))
        raise ConfigError(
            f"init.distill={path}: the teacher was trained with tokenizer.{name}={as_option(before)}, and this run "
            f"has {as_option(now)}; train both with the same options of the tokenizer"
        )
    same = teacher.tokenizer.fit_fingerprint() == learner.tokenizer.fit_fingerprint()
    try:
        if not same:
            raise RuntimeError("another vocabulary")
        learner.distillation.tokenizer.load_state_dict(teacher.tokenizer.state_dict(), strict=True)
        learner.distillation.encoder.load_state_dict(teacher.encoder.state_dict(), strict=True)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ConfigError(
            f"init.distill={path}: the teacher does not fit ({reason}); train it with the data, the constants "
            f"(init.constants) and the options of this run"
        ) from None
    start = teacher.history[-1].digest if teacher.history else None
    line = f"distill    towards the features of {teacher.describe()}"
    if start == source.digest:
        return [line]
    return [line, f"warning: the teacher {path} did not start from the weights of init.source, as Lee et al. have it"]
