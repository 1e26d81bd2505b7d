"""Pydantic's errors to faults that name the field, what was found and what would be right."""

import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from coordinator.spec.document import Path, field_name, nearest
from coordinator.spec.scalars import CREDENTIALS
from headrace.errors import Fault
from headrace.uris import without_credentials

_PLAINER = (("input should be", "expected"), ("a valid integer", "a whole number"), ("valid ", ""))
_FOUND_MAX = 60
"""Characters of a wrong value that are shown."""


def faults_of(error: ValidationError, model: type[BaseModel], data: Any) -> list[Fault]:
    """The faults of `data`, one for each field, in pydantic's order."""
    expected: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    for item in error.errors(include_url=False, include_context=True, include_input=True):
        path = _path_in(data, item["loc"], missing=item["type"] == "missing")
        name = field_name(path) or "this file"
        seen, wanted = _words(item, path, model)
        found.setdefault(name, seen)
        told = expected.setdefault(name, [])
        wanted = wanted.removeprefix("expected ") if told else wanted
        if wanted and wanted not in told and f"expected {wanted}" not in told:
            told.append(wanted)
    return [Fault(name, found[name], " or ".join(expected.get(name, []))) for name in found]


def error_paths(error: ValidationError, data: Any) -> list[tuple[Path, str]]:
    """Where the errors lie, and pydantic's word for each: ``extra_forbidden`` where no model has the field."""
    return [
        (_path_in(data, item["loc"], missing=item["type"] == "missing"), item["type"])
        for item in error.errors(include_url=False)
    ]


def _words(item: Any, path: Path, model: type[BaseModel]) -> tuple[str, str]:
    kind, value, context = item["type"], item.get("input"), item.get("ctx", {})
    if kind == "extra_forbidden":
        known = list(field_names(model, path[:-1]))
        close = nearest(str(path[-1]), known)
        return "unknown field", f"did you mean '{close}'?" if close else f"known: {', '.join(known)}"
    if kind == "missing":
        described = _described(model, path)
        return "missing", f"expected {described[:1].lower()}{described[1:].rstrip('.')}"
    if kind == "literal_error":
        close = nearest(str(value), [text.strip(" '") for text in context["expected"].replace(" or ", ", ").split(",")])
        return f"found {_shown(value)}", f"expected {context['expected']}" + (
            f"; did you mean '{close}'?" if close else ""
        )
    if kind == CREDENTIALS:
        return str(context.get("found", "a URL with a user name or password in it")), str(item["msg"])
    if kind == "value_error":
        return f"found {_shown(value)}", str(context["error"])
    message = item["msg"][0].lower() + item["msg"][1:]
    for theirs, ours in _PLAINER:
        message = message.replace(theirs, ours)
    return f"found {_shown(value)}", message


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(map(str, value)) + "}" if value else "{}"
    if isinstance(value, list) and len(value) > 3:
        return f"a list of {len(value)}"
    text = "nothing" if value is None else without_credentials(repr(value))
    return text if len(text) <= _FOUND_MAX else text[: _FOUND_MAX - 1] + "…"


def _path_in(data: Any, loc: Sequence[str | int], *, missing: bool = False) -> Path:
    """`loc` without the names of unions and validators that pydantic puts between the keys."""
    path: list[str | int] = []
    for part in loc:
        inside = part in data if isinstance(data, dict) else isinstance(data, list) and part in range(len(data))
        if inside:
            data = data[part]
            path.append(part)
    if missing:
        path.append(loc[-1])
    return tuple(path)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Model classes within an annotation such as ``list[Stage]`` or ``Annotated[Csv | None, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (list, dict, tuple, Union, types.UnionType, Annotated):
        for inner in get_args(annotation):
            yield from _models(inner)


def field_names(model: type[BaseModel], path: Path) -> Iterator[str]:
    """Names that the object at `path` may have, as files write them."""
    at = _model_at(model, path)
    return (info.alias or name for name, info in at.model_fields.items()) if at else iter(())


def _model_at(model: type[BaseModel], path: Path) -> type[BaseModel] | None:
    at: type[BaseModel] | None = model
    for part in path:
        if at is None:
            return None
        info = next((info for name, info in at.model_fields.items() if part in (info.alias, name)), None)
        # A part that is no field is a key or an index of a list or dict whose model is found already.
        at = next(_models(info.annotation), None) if info else at
    return at


def _described(model: type[BaseModel], path: Path) -> str:
    at = _model_at(model, path[:-1])
    for name, info in at.model_fields.items() if at else ():
        if path[-1] in (info.alias, name) and info.description:
            return info.description
    return f"'{path[-1]}'"
