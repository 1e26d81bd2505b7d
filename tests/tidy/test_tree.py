"""The tree keeps its own rules: sizes, purity, docstrings, generated files."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("coordinator", "sidecar", "predictor", "proto/headrace")
GENERATED = ROOT / "proto/headrace/v1/__init__.py"
SOURCES = sorted(
    path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if path != GENERATED and not path.is_symlink()
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
CORES = [path for path in SOURCES if "core" in path.parts or "local" in path.parts]
LINES_MAX = 500
VAGUE = {"manager", "handler", "helper", "helpers", "util", "utils", "common", "base", "process"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name_of)
def test_a_file_is_short_named_for_what_it_is_and_says_so(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LINES_MAX
    assert path.stem not in VAGUE
    assert ast.get_docstring(ast.parse(text)), "a module says in a sentence what it is"


def test_laws_that_are_cited_are_written_down() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    laws = set(
        re.findall(r"^(\d+)\. ", page[page.index("## Laws") : page.index("## What is not built yet")], re.MULTILINE)
    )
    cited = {
        number for path in (*SOURCES, *TESTS) for number in re.findall(r"\blaw (\d+)", path.read_text(), re.IGNORECASE)
    }
    assert cited
    assert cited <= laws


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_is_pickled_and_only_config_reads_the_environment(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {"pickle", "cloudpickle", "marshal", "shelve"} & set(names)
        if isinstance(node, ast.Attribute) and node.attr == "environ" and "predictor" not in path.parts:
            assert name_of(path) in ENVIRONMENT_READERS, "the environment comes in as an argument"


ENVIRONMENT_READERS = {
    "sidecar/config.py",
    "sidecar/predictors.py",  # hands the environment on to the predictor host
    "coordinator/config.py",
    "coordinator/probing.py",  # likewise to the probe
    "proto/headrace/hdfs_identity.py",  # as an SDK's chain of credentials does
    "coordinator/cli/chaos_command.py",
    "coordinator/cli/commands.py",
    "coordinator/cli/reject_commands.py",
    "proto/headrace/azure_auth.py",  # keys of stores stand nowhere else; for the other stores their SDKs read it
}


@pytest.mark.parametrize("path", CORES, ids=name_of)
def test_decisions_take_time_and_randomness_as_arguments(path: Path) -> None:
    allowed = {
        "collections", "collections.abc", "dataclasses", "enum", "typing", "bisect", "heapq", "math", "numpy", "struct",
        "json", "itertools", "functools", "abc", "hashlib", "zlib", "numpy.typing", "__future__", "operator", "array",
        "types",
    }  # fmt: skip
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = [node.module or ""]
        for module in modules:
            assert module in allowed or module.split(".")[0] in ("headrace", "coordinator", "sidecar"), module


WALL_CLOCKS = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "asctime", "strftime", "clock_gettime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
    "Timestamp": {"now", "utcnow", "today"},
}
TELLERS_OF_TIME = {"coordinator/main.py"}
"""Metrics say when they were taken."""


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nobody_asks_for_the_time_of_day(path: Path) -> None:
    asked = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            owner = getattr(node.value, "attr", getattr(node.value, "id", ""))
            asked |= {node.attr} & WALL_CLOCKS.get(owner, set())
        elif isinstance(node, ast.ImportFrom):
            asked |= {name.name for name in node.names} & WALL_CLOCKS.get(node.module or "", set())
    assert not asked or name_of(path) in TELLERS_OF_TIME, "it jumps; durations and deadlines are monotonic"


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    environ = os.environ | {"PYTHON": sys.executable}
    subprocess.run([ROOT / "proto/generate", tmp_path], check=True, capture_output=True, env=environ)
    for made in tmp_path.iterdir():
        assert made.read_bytes() == (ROOT / "proto/headrace/v1" / made.name).read_bytes(), (
            f"run proto/generate: {made.name}"
        )


MACHINES = tuple("/".join(("", *parts)) for parts in (("work", "main"), ("root", ""), ("home", "")))


def test_files_name_no_machine() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split(
        "\n"
    )
    for name in filter(None, listed):
        path = ROOT / name
        if path.is_file() and path.suffix in (".py", ".md", ".toml", ".yaml", ".ini", ".proto", ""):
            text = path.read_text(errors="replace")
            for wrong in MACHINES:
                assert wrong not in text, f"{name} names {wrong}"
