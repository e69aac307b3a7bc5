"""Checks of plugins: hooks, and the classes, presets and commands that they return."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pluggy

from ssl_core import hookspecs
from ssl_core.errors import PluginError, SslxError, nearest, place_of

BASES = {
    "objective": "Objective",
    "tokenizer": "Tokenizer",
    "dataset": "Dataset",
    "masking": "Masking",
    "encoder": "Encoder",
    "probe": "Probe",
}
METHODS = {  # methods that a class of each kind must define
    "objective": ("forward",),
    "tokenizer": ("forward",),
    "dataset": ("__len__", "__getitem__"),
    "masking": ("__call__",),
    "encoder": ("forward",),
    "probe": ("fit",),
}
BUILT_IN_COMMANDS = (
    "run", "replay", "inspect", "eval", "embed", "finetune", "predict", "export", "compare", "submit", "ui", "data",
    "cache", "list", "show", "check", "new", "plugins",
)  # fmt: skip
API_VARIABLE = "SSLX_API"
MAX_LENGTH = 300  # longest quote of a plugin's message, in characters


def check_api(plugin: Any, version: str) -> None:
    """Check that the version of the plugin interface is in the range that the plugin declares as `SSLX_API`.

    Raises:
        PluginError: If it is not, or if the range is invalid.
    """
    specifier = getattr(plugin, API_VARIABLE, None)
    if specifier is None:
        return
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # imported here because few plugins need it

    try:
        fits = SpecifierSet(specifier).contains(version)
    except (InvalidSpecifier, TypeError, AttributeError):
        raise PluginError(f"its {API_VARIABLE} must be a range such as '>=2.0,<3', not {specifier!r:.80}") from None
    if not fits:
        raise PluginError(
            f"it is made for version '{specifier}' of the plugin interface, and this sslx has {version}; "
            f"install a release of it that supports {version}, or another sslx"
        )


def register(manager: pluggy.PluginManager, plugin: Any, name: str) -> None:
    """Register a plugin with pluggy and check its hooks.

    Raises:
        PluginError: If a hook is invalid. The plugin may then stay registered.
    """
    hooks = [hook for hook in dir(hookspecs) if manager.parse_hookspec_opts(hookspecs, hook) is not None]
    for hook in hooks:
        if callable(getattr(plugin, hook, None)) and manager.parse_hookimpl_opts(plugin, hook) is None:
            raise PluginError(f"function {hook} lacks its mark; write @hookimpl above it")
    try:
        manager.register(plugin, name)
    except pluggy.PluginValidationError as error:
        raise PluginError(f"a hook does not fit its specification: {one_line(str(error))}") from error
    except ValueError as error:
        first = manager.get_name(plugin) or name
        raise PluginError(f"it is the same plugin as '{first}'; remove one of the two entry points") from error
    callers = manager.get_hookcallers(plugin)
    if not callers:
        raise PluginError("it has no hook; mark a function such as register_objectives with @hookimpl")
    for caller in callers:
        if caller.name not in hooks:
            raise PluginError(f"there is no hook '{caller.name}'; {nearest(caller.name, hooks, 'hook')}")
        if any(impl.wrapper or impl.hookwrapper for impl in caller.get_hookimpls() if impl.plugin is plugin):
            raise PluginError(f"hook {caller.name} is a wrapper; write a plain function instead")


def call_register_hook(manager: pluggy.PluginManager, plugin: Any, kind: str) -> list[Any]:
    """Call a registered plugin's hook of one kind and check the values that it returns.

    Raises:
        PluginError: If the hook fails or a value is invalid.
    """
    hook = f"register_{kind}s"
    values: list[Any] = []
    for impl in getattr(manager.hook, hook).get_hookimpls():
        if impl.plugin is not plugin:
            continue
        try:
            returned = impl.function()
        except (Exception, SystemExit) as error:
            raise PluginError(f"{hook}() failed: {quote(error)}") from error
        if not isinstance(returned, list | tuple):
            raise PluginError(f"{hook}() must return a list, not {returned!r:.80}")
        values += returned
    for value in values:
        problem = PROBLEMS.get(kind, partial(class_problem, kind))(value)
        if problem:
            raise PluginError(f"{hook}(): {problem}")
    return values


def class_problem(kind: str, value: Any) -> str | None:
    """The problem of a registered class, or None."""
    from ssl_core import contracts, options  # imports torch, as the plugin has already done

    base = getattr(contracts, BASES[kind])
    if not isinstance(value, type):
        return f"expected a class, not {value!r:.80}; offer the class itself"
    if not issubclass(value, base):
        return f"class {value.__name__} does not derive from ssl_core.{base.__name__}"
    for attribute in ("name", "modality") if kind == "dataset" else ("name",):
        word = getattr(value, attribute, None)
        if not _is_name(word):
            return f"class {value.__name__} needs a `{attribute}` of letters, digits, '_', '-', '.', '+', not {word!r}"
    aliases = getattr(value, "aliases", ())
    if kind == "dataset" and not (isinstance(aliases, tuple) and all(map(_is_name, aliases))):
        return f"class {value.__name__} needs `aliases` that are a tuple of names, not {aliases!r:.80}"
    if kind == "dataset" and len({getattr(value, "name", ""), *aliases}) <= len(aliases):
        return f"class {value.__name__} repeats a name in `aliases` {aliases!r:.80}"
    if kind == "objective" and (problem := _masking_problem(value)):
        return problem
    own = getattr(value, "Options", None)
    if not (isinstance(own, type) and issubclass(own, options.Options)):
        return (
            f"{value.__name__}.Options must derive from {base.__name__}.Options, so that its values are checked and "
            f"saved; write `class Options({base.__name__}.Options):`"
        )
    if kind == "probe":
        from ssl_core.evaluation.options import EvaluateOptions

        options_used = getattr(value, "evaluate_options", ())
        for known, where in ((EvaluateOptions, "the section evaluate"), (own, f"{value.__name__}.Options")):
            unknown = [name for name in options_used if name not in known.model_fields]
            if unknown:
                return f"`evaluate_options` of class {value.__name__} has '{unknown[0]}', which {where} lacks"
    for method in METHODS[kind]:
        if getattr(value, method, None) is getattr(base, method, None):
            return f"class {value.__name__} does not define {method}"
    return None


def _masking_problem(value: Any) -> str | None:
    """The problem of an objective's default maskings, or None."""
    from ssl_core.options import Choice

    choice, choices = getattr(value, "default_masking", None), getattr(value, "default_maskings", {})
    example = 'Choice("random", {"ratio": 0.75})'
    if not isinstance(choice, Choice | None):
        return f"`default_masking` of class {value.__name__} must be None, or such as {example}, not {choice!r:.80}"
    if not isinstance(choices, Mapping) or not all(isinstance(value, Choice) for value in choices.values()):
        return f"`default_maskings` of class {value.__name__} must map names to such as {example}, not {choices!r:.80}"
    if choice is not None and choices:
        return f"class {value.__name__} has both `default_masking` and `default_maskings`; keep one of them"
    return None


def _is_name(word: Any) -> bool:
    return isinstance(word, str) and re.fullmatch(r"\w[\w.+-]*", word) is not None


def preset_problem(value: Any) -> str | None:
    """The problem of a registered preset, or None."""
    from ssl_core.options import Preset

    if not isinstance(value, Preset):
        return f"expected a Preset, not {value!r:.80}"
    if not value.name or not value.source:
        return f"preset '{value.name}' needs a name and a source (paper, table or measurement)"
    if not isinstance(value.values, Mapping):
        return f"preset '{value.name}': values must map option paths to values"
    return None


def command_problem(value: Any) -> str | None:
    """The problem of a registered command, or None."""
    import typer  # the command line, which loads commands, has already imported it

    if not isinstance(value, typer.Typer):
        return f"expected a typer.Typer, not {value!r:.80}"
    name = value.info.name
    if not _is_name(name):
        return f"a typer.Typer needs a name of letters, digits, '_', '-', '.', '+', not {name!r}; pass name="
    if name in BUILT_IN_COMMANDS:
        return f"command '{name}' is a command of sslx; choose another name"
    return None


PROBLEMS: dict[str, Callable[[Any], str | None]] = {"preset": preset_problem, "command": command_problem}


def one_line(text: str) -> str:
    """Replace line breaks by spaces and truncate the text to MAX_LENGTH."""
    flat = " ".join(text.split())
    return flat if len(flat) <= MAX_LENGTH else flat[: MAX_LENGTH - 3] + "..."


def quote(error: BaseException) -> str:
    """One line for an exception of a plugin: type, message, and the line of code that raised it."""
    if isinstance(error, SslxError):
        return one_line(str(error))
    place = place_of(error, skip=1)  # the first frame is in sslx
    return one_line(f"{type(error).__name__}: {error}") + (f" ({place})" if place else "")
