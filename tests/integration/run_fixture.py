"""The `headrace` command as a user runs it: a real process in a folder of its own, with a state folder of its own."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

HEADRACE = str(Path(sys.executable).with_name("headrace"))
TIMEOUT_S = 60.0

DOUBLE = '''
import numpy as np


class Double:
    """Twice the input, whatever number it is."""

    def __call__(self, batch):
        return {"y": batch["x"] * 2}
'''
DOUBLE_STAGE: dict[str, Any] = {"name": "double", "python": "double:Double", "inputs": {"x": "source.x"}}


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command answered."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout; anything beside it fails the test."""
        found: dict[str, Any] = json.loads(self.stdout)
        return found

    @property
    def text(self) -> str:
        """All that it said, for assertion messages."""
        return f"exit code {self.code}\n{self.stdout}\n{self.stderr}"


class Site:
    """A folder with a job's files, its output `out` and its `state`; the stage `double:Double` lies in it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.state = folder / "state"
        self.out = folder / "out"
        (folder / "double.py").write_text(DOUBLE)

    def job(
        self,
        *,
        source: Mapping[str, Any],
        sink: Mapping[str, Any] | None = None,
        pipeline: Sequence[Mapping[str, Any]] = (DOUBLE_STAGE,),
        name: str = "job",
        **spec: Any,
    ) -> Path:
        """Writes ``NAME.yaml``; what `sink` leaves out: Parquet to `out` with the columns x and y of `double`."""
        default_sink = {"format": "parquet", "uri": "out", "columns": {"x": "source.x", "y": "double.y"}}
        path = self.folder / f"{name}.yaml"
        document = {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "InferenceJob",
            "metadata": {"name": name},
            "spec": {
                "source": dict(source),
                "pipeline": [dict(stage) for stage in pipeline],
                "sink": default_sink | dict(sink or {}),
                **spec,
            },
        }
        path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
        return path

    def write(self, name: str, text: str | bytes) -> Path:
        """Writes a file below the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def parquet(self, name: str, columns: Mapping[str, Any] | pa.Table, **options: Any) -> Path:
        """Writes a Parquet file below the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(dict(columns)), path, **options)
        return path

    def headrace(self, *arguments: str, timeout_s: float = TIMEOUT_S, **environ: str) -> Ran:
        """Runs ``headrace ARGUMENTS`` in the folder, to its end."""
        done = subprocess.run(
            [HEADRACE, *arguments],
            cwd=self.folder,
            env=self._environ(environ),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def run(self, job: Path, *arguments: str, timeout_s: float = TIMEOUT_S, **environ: str) -> Ran:
        """``headrace run JOB -o json`` with this folder's state."""
        return self.headrace(*self._run_arguments(job), *arguments, timeout_s=timeout_s, **environ)

    def run_complete(self, job: Path, *arguments: str, timeout_s: float = TIMEOUT_S, **environ: str) -> dict[str, Any]:
        """As `run`, for a job that must end complete; its JSON document."""
        ran = self.run(job, *arguments, timeout_s=timeout_s, **environ)
        assert ran.code == 0, ran.text + self.logs()
        assert ran.document["phase"] == "Succeeded"
        return ran.document

    def start(self, job: Path, *arguments: str, before: str = "", **environ: str) -> "subprocess.Popen[str]":
        """Starts ``headrace run JOB -o json`` and returns at once; `before`: shell code right before the command."""
        command = [HEADRACE, *self._run_arguments(job), *arguments]
        return subprocess.Popen(
            ["/bin/sh", "-c", f"{before} {shlex.join(command)}"] if before else command,
            cwd=self.folder,
            env=self._environ(environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def verify(self, output: Path | None = None) -> dict[str, Any]:
        """``headrace verify``, which must prove the output; its JSON document."""
        ran = self.headrace("verify", str(output or self.out), "-o", "json")
        assert ran.code == 0, ran.text
        assert ran.document["proven"]
        return ran.document

    def logs(self) -> str:
        """The logs of all jobs' processes, for assertion messages."""
        paths = sorted(self.state.glob("jobs/*/logs/*.log"))
        return "".join(f"\n--- {path.name}\n{path.read_text(errors='replace')[-4000:]}" for path in paths)

    def data_files(self, output: Path | None = None) -> list[Path]:
        """The output's files in the order of the input."""
        return sorted((output or self.out).glob("part-*"))

    def rows(self, output: Path | None = None) -> pa.Table:
        """All rows of a Parquet output in the order of the input."""
        return pa.concat_tables([pq.read_table(path) for path in self.data_files(output)])

    def rejects(self, output: Path | None = None) -> list[dict[str, Any]]:
        """All rejected rows of an output."""
        folder = (output or self.out) / "_headrace" / "rejected"
        return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]

    def _run_arguments(self, job: Path) -> list[str]:
        return ["run", str(job), "--state", str(self.state), "-o", "json"]

    def _environ(self, more: Mapping[str, str]) -> dict[str, str]:
        # Nothing of this machine's user: neither ledgers nor modules.
        return {**os.environ, "XDG_STATE_HOME": str(self.state), "PYTHONDONTWRITEBYTECODE": "1", **more}
