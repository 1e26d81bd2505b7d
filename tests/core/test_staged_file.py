"""A staged file that can't be removed is left where it is: its worker goes on."""

from pathlib import Path

from headrace.stores.local import LocalStore
from sidecar.writer.staged import StagedFile

NAME = "part-00000000-abcdefgh-1-12345678.jsonl"


def test_what_cant_be_removed_is_no_error(tmp_path: Path) -> None:
    file = StagedFile(LocalStore(tmp_path, "", tmp_path), NAME)
    path = tmp_path / NAME
    path.unlink()
    path.mkdir()  # stands for any refusal of the store
    file.remove()
    assert path.is_dir()
    file.remove()
