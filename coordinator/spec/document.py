"""YAML text to plain values, with ``${NAME}`` filled in and the line of every field kept.

Plain scalars follow YAML 1.2: only `true` and `false` are booleans, and dates, times and ``0123`` stay texts, so that a
column called `no` or a path part ``2026-11-21`` means what it says. ``$${NAME}`` writes ``${NAME}`` itself.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from headrace.errors import Fault

Path = tuple[str | int, ...]
"""Where a value lies in a document: keys and indexes from the top."""

_VARIABLE = re.compile(r"(\$?)\$\{([^}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PREFIX = "tag:yaml.org,2002:"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def field_name(path: Path) -> str:
    """`path` as a user reads it: ``spec.pipeline[0].inputs.x``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def nearest(wrong: str, right: "Iterator[str] | list[str] | tuple[str, ...]") -> str:
    """The name of `right` that `wrong` was most likely meant to be, or ""."""
    names = list(right)
    folded = {name.lower().replace("_", ""): name for name in names}
    found = difflib.get_close_matches(wrong.lower().replace("_", ""), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else ""


@dataclass(slots=True)
class Document:
    """A parsed file: its value, the line of each field, its variables, and what was wrong with the text itself."""

    value: Any
    lines: dict[str, int] = field(default_factory=dict)  # by field name; lines count from 1
    variables: set[str] = field(default_factory=set)  # whose values the text asks for
    faults: list[Fault] = field(default_factory=list)

    def line(self, name: str) -> int | None:
        """The line of a field, or of the nearest field around it that the file has."""
        while name:
            if name in self.lines:
                return self.lines[name]
            name = name[: max(name.rfind("."), name.rfind("["))] if "." in name or "[" in name else ""
        return None


def parse(text: str, variables: Mapping[str, str]) -> Document:
    """Parses one YAML document.

    Faults are in the answer, also those of broken YAML (then `value` is None); their fields carry no file name.
    """
    document = Document(None)
    loader = _LOADER(text)
    try:
        node = loader.get_single_node()
        if node is not None:
            document.value = _Reader(loader, variables, document).value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "this file"
        lines = text.splitlines()
        braces = mark is not None and mark.line < len(lines) and "${" in lines[mark.line]
        hint = 'quotes around "${NAME}" within {...}' if braces else ""
        document.faults.append(Fault(where, f"not YAML: {error.problem or error.context}", hint))
    except yaml.YAMLError as error:
        document.faults.append(Fault("this file", f"not YAML: {' '.join(str(error).split())}"))
    finally:
        loader.dispose()
    return document


class _Reader:
    """Turns nodes into values while noting lines and faults."""

    def __init__(self, loader: Any, variables: Mapping[str, str], document: Document) -> None:
        self._loader = loader
        self._variables = variables
        self._document = document
        self._open: list[yaml.Node] = []  # nodes around the present one: an alias to one of them has no end

    def value(self, node: yaml.Node, path: Path) -> Any:
        self._document.lines.setdefault(field_name(path), node.start_mark.line + 1)
        if any(node is outer for outer in self._open):
            self._fault(path, "an alias to something around it", "a value that ends")
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self._open.append(node)
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
            assert isinstance(node, yaml.MappingNode)
            return self._mapping(node, path)
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen and name != "<<":
                self._fault((*path, name), "written twice", f"once; it is on line {line} too")
            seen.add(name)
        self._loader.flatten_mapping(node)
        made: dict[str, Any] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._fault(path, "a key that isn't a text", "a name")
                continue
            self._document.lines.setdefault(field_name((*path, key.value)), key.start_mark.line + 1)
            made[key.value] = self.value(item, (*path, key.value))
        return made

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        text: str = node.value
        tag: str = node.tag
        if "${" in text:
            text = _VARIABLE.sub(lambda found: self._variable(found, path), text)
            if not node.style:
                tag = self._loader.resolve(yaml.ScalarNode, text, (True, False))
        if tag.removeprefix(_PREFIX) not in _TAGS:
            self._fault(path, f"the tag {tag}", "a plain value")
            return None
        convert = _PLAIN.get(tag.removeprefix(_PREFIX)) if not node.style else None
        return convert(text) if convert else text

    def _variable(self, found: re.Match[str], path: Path) -> str:
        escaped, name = found.groups()
        if escaped:
            return found[0][1:]
        self._document.variables.add(name)
        if name in self._variables:
            return self._variables[name]
        if not _NAME.fullmatch(name):
            self._fault(path, f"${{{name}}} names no variable", "letters, digits and '_'; write $${ for ${ itself")
        else:
            close = nearest(name, list(self._variables))
            hint = f" (did you mean ${{{close}}}?)" if close else ""
            self._fault(path, f"${{{name}}} isn't set{hint}", f"--set {name}=VALUE, or {name} in the environment")
        return ""

    def _fault(self, path: Path, found: str, expected: str) -> None:
        self._document.faults.append(Fault(field_name(path), found, expected))


def _boolean(text: str) -> bool | str:
    return {"true": True, "false": False}.get(text.lower(), text)


def _integer(text: str) -> int | str:
    try:
        return int(text.replace("_", ""), 0) if ":" not in text else text
    except ValueError:
        return text


def _number(text: str) -> float | str:
    folded = text.replace("_", "").lower()
    if folded.lstrip("+-") in (".inf", ".nan"):
        return math.nan if folded.endswith("nan") else math.copysign(math.inf, -1 if folded[0] == "-" else 1)
    try:
        return float(folded) if ":" not in text else text
    except ValueError:
        return text


_TAGS = ("str", "null", "bool", "int", "float", "timestamp", "value", "merge")
_PLAIN: dict[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": _boolean,
    "int": _integer,
    "float": _number,
}
