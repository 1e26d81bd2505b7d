"""The file that is run: loads this package and `headrace.local` under the private name `_headrace`, and goes there.

::

    python .../predictor/launcher.py host --socket PATH --stage NAME --kind onnx [--lifeline]
    python .../predictor/launcher.py probe '<StageProgram as JSON>'

A user's own `predictor.py`, `launcher.py` or `headrace` is found by the user's imports, never ours.
"""

import importlib
import importlib.util
import os
import sys
import types

PRIVATE_NAME = "_headrace"


def load() -> types.ModuleType:
    """Makes the packages ``_headrace.predictor`` and ``_headrace.local``; returns the module of the commands."""
    here = os.path.dirname(os.path.abspath(__file__))
    above = os.path.dirname(here)
    # As copied into an image, as installed, and as in the source tree.
    places = (("local",), ("headrace", "local"), ("proto", "headrace", "local"))
    local = next(path for path in (os.path.join(above, *place) for place in places) if os.path.isdir(path))
    root = types.ModuleType(PRIVATE_NAME)
    root.__path__ = []
    sys.modules[PRIVATE_NAME] = root
    for name, folder in (("local", local), ("predictor", here)):
        full_name = f"{PRIVATE_NAME}.{name}"
        spec = importlib.util.spec_from_file_location(
            full_name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
        )
        assert spec is not None
        assert spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules[full_name] = package
        spec.loader.exec_module(package)
        setattr(root, name, package)
    # Run by path, Python put this folder first: `import host` of a user's code would find ours.
    if sys.path and os.path.realpath(sys.path[0]) == os.path.realpath(here):
        del sys.path[0]
    return importlib.import_module(f"{PRIVATE_NAME}.predictor.command")


if __name__ == "__main__":
    sys.exit(load().main(sys.argv[1:]))
