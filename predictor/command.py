"""The two commands of the launcher: `host` serves a stage, `probe` loads it once and says what it takes and gives."""

import argparse
import gc
import importlib
import json
import os
import sys
from typing import List


def main(arguments: List[str]) -> int:
    """Runs one command and returns the exit status."""
    parser = argparse.ArgumentParser(prog="predictor")
    commands = parser.add_subparsers(dest="command", required=True)
    host = commands.add_parser("host", help="listen on a Unix socket and fork predictors")
    host.add_argument("--socket", required=True, help="path of the socket to make")
    host.add_argument("--stage", required=True, help="name of the stage")
    host.add_argument("--kind", required=True, choices=("onnx", "python"))
    host.add_argument("--memory-bytes", type=int, help="what its predictors may hold; default: what there is")
    host.add_argument("--lifeline", action="store_true", help="end when stdin ends")
    host.add_argument("--sweep", action="store_true", help="remove the socket at the end, and its folder if empty")
    probe = commands.add_parser("probe", help="print inputs and outputs of a stage as JSON")
    probe.add_argument("stage", help="StageProgram as JSON")
    probe.add_argument("--lifeline", action="store_true", help="end when stdin ends")
    options = parser.parse_args(arguments)
    # One thread per predictor: one process per core is twice as fast as one with as many threads (benchmarks.md), and
    # the host must have one thread only when it forks. numpy reads these when it is imported, so before it.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    # From 1.29 on ONNX Runtime sends usage data from a thread of its own, which a fork would also cut off halfway.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if options.command == "probe":
        return _probe(options)
    return _host(options)


def _host(options: argparse.Namespace) -> int:
    from . import host

    listener = host.listen(options.socket)  # first of all: the sidecar waits for it
    importlib.import_module(f"{__package__}.serving")
    if options.kind == "onnx":
        try:
            importlib.import_module("onnxruntime")
        except ImportError as error:  # each predictor will fail to load, and say so
            print(f"onnxruntime can't be imported: {error}", file=sys.stderr)
    gc.collect()
    gc.freeze()  # what is imported stays shared with the forks
    status = host.Host(options.stage, listener, 0 if options.lifeline else None, options.memory_bytes).run()
    if options.sweep:
        host.sweep(options.socket)
    return status


def _probe(options: argparse.Namespace) -> int:
    sys.dont_write_bytecode = True  # planning touches nothing, not even the folder of the user's modules
    from . import apart

    apart.run_apart(lambda: _print_probe(options.stage), 0 if options.lifeline else None)


def _print_probe(text: str) -> int:
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the stage prints is no part of the answer
    from . import probing

    json.dump(probing.probe(text), answer)
    answer.flush()
    return 0
