"""Exceptions as users want to read them: their own frames, not those of Headrace or of the libraries between."""

import os
import re
import sysconfig
import traceback
from typing import Optional

from .local import messages

FRAMES_MAX = 20
MESSAGE_CHARS_MAX = 4_000
TRACEBACK_CHARS_MAX = 16_000

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_PATHS = sysconfig.get_paths()
_IMPORT_MACHINERY = re.compile(r"[/\\]importlib[/\\]|onnxruntime")
_LIBRARIES = tuple(os.path.join(_PATHS[name], "") for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def stage_error(error: BaseException) -> messages.StageError:
    """The class, the message and the shortened traceback of `error`, and of what it came from."""
    message = str(error)
    if len(message) > MESSAGE_CHARS_MAX:
        message = message[:MESSAGE_CHARS_MAX] + " …"
    told = traceback.TracebackException(type(error), error, error.__traceback__)
    _shorten(told)
    text = "".join(told.format())
    if len(text) > TRACEBACK_CHARS_MAX:
        text = "… " + text[-TRACEBACK_CHARS_MAX:]
    return messages.StageError(type(error).__name__, message, text)


def _shorten(told: Optional[traceback.TracebackException]) -> None:
    depth = 0
    while told is not None and depth < 10:  # chains can be loops
        outside = [frame for frame in told.stack if not _is_ours(frame.filename)]
        # A class of an installed package has frames in libraries only; those of ONNX Runtime and of the import of a
        # file with a syntax error say nothing to anybody.
        kept = [frame for frame in outside if not frame.filename.startswith(_LIBRARIES)] or [
            frame for frame in outside[-3:] if not _IMPORT_MACHINERY.search(frame.filename)
        ]
        told.stack = traceback.StackSummary.from_list(kept[-FRAMES_MAX:])
        told = told.__cause__ or told.__context__
        depth += 1


def _is_ours(filename: str) -> bool:
    return filename.startswith((_OURS, "<frozen importlib"))
