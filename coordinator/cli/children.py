"""The processes that `headrace run` starts: none of them outlives it, however it ends.

Each child inherits the read end of one pipe, the lifeline, and ends itself when that reaches its end of file, which the
kernel sees to when this process dies. Children run in sessions of their own, so Ctrl-C reaches this process only.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

TAIL_BYTES = 8192
TRACEBACK = "Traceback (most recent call last)"
ENVIRONMENT = {
    # numpy starts a thread per core for linear algebra that no process of ours does; they spin while it starts.
    "OPENBLAS_NUM_THREADS": "1",
    # Arrow's allocator gives decoded columns back to the kernel after 10 ms, which clears them again a moment later.
    "MIMALLOC_PURGE_DELAY": "1000",
}
"""Of the children, unless the user's own environment says otherwise."""


class Child:
    """One running process."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path | None) -> None:
        self.name = name
        self.process = process
        self._log = log

    def tail(self) -> str:
        """The end of its log in whole lines, from its last traceback on if there is one; and where the log is."""
        if self._log is None:
            return ""
        with open(self._log, "rb") as file:
            begin = max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES)
            file.seek(begin)
            text = file.read().decode(errors="replace")
        text = text.partition("\n")[2] if begin else text
        return f"{text[max(0, text.rfind(TRACEBACK)) :].strip()}\nAll of it: {self._log}"

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to it alone."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def end(self, grace_s: float) -> int:
        """SIGTERM, then after `grace_s` SIGKILL; returns its exit status."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                return await self.process.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.process.wait()


class Children:
    """Starts children on one lifeline."""

    def __init__(self, logs: Path, verbose: bool, environ: Mapping[str, str]) -> None:
        """They log to files in `logs`, or to stderr if `verbose`."""
        self._logs = logs
        self._verbose = verbose
        self._environ = {**ENVIRONMENT, **environ}
        self._read_end, self._write_end = os.pipe()
        self._starting = 0

    @property
    def is_starting(self) -> bool:
        """Whether there may be a process that no Child stands for yet."""
        return self._starting > 0

    async def start(self, name: str, module: str, arguments: Sequence[str], inherited: Sequence[int] = ()) -> Child:
        """Starts ``python -m module`` with some open files; its output goes to ``logs/name.log``, or here with -v."""
        log = None if self._verbose else self._logs / f"{name}.log"
        out = sys.stderr.fileno() if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._starting += 1
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                *arguments,
                "--lifeline-fd",
                str(self._read_end),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                pass_fds=(self._read_end, *inherited),
                start_new_session=True,
                env=self._environ,
            )
        finally:
            self._starting -= 1
            if log is not None:
                os.close(out)
        return Child(name, process, log)

    def cut(self) -> None:
        """Ends all that still run, at once."""
        os.close(self._write_end)
