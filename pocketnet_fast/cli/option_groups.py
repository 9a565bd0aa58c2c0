"""Options that commands share, as one parameter: a dataclass whose fields are options."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

import typer


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function some of whose parameters are groups of options.

    A parameter whose type is a dataclass stands for that class's fields which are annotated with
    ``typer.Option``; the command line has these, in their order, where the parameter stands.

    Examples:
        >>> @dataclass(frozen=True)
        ... class Size:
        ...     width: Annotated[int, typer.Option(min=1)] = 1
        >>> @grouped
        ... def draw(*, size: Size) -> None: ...  # pocketnet draw --width 3
    """
    signature = inspect.signature(command, eval_str=True)
    groups = {
        parameter.name: _options(parameter.annotation)
        for parameter in signature.parameters.values()
        if dataclasses.is_dataclass(parameter.annotation)
    }

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, options in groups.items():
            group = signature.parameters[name].annotation
            given[name] = group(**{option.name: given.pop(option.name) for option in options})
        command(**given)

    # Typer, and the help's words for types, look at what is below a wrapper otherwise.
    del run.__wrapped__
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        parameters += groups.get(parameter.name, [parameter])
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _options(group: Any) -> list[inspect.Parameter]:
    """The fields of a group that are options, as parameters of a command."""
    hints = typing.get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[field.name],
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
        )
        for field in dataclasses.fields(group)
        if any(isinstance(one, typer.models.OptionInfo) for one in _annotations(hints[field.name]))
    ]


def _annotations(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
