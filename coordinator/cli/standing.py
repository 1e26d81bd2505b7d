"""What the ledger on this machine knows of a job that nobody runs, read from a copy so that nothing is touched."""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.cli.state import JobFolder

if TYPE_CHECKING:
    from coordinator.core.ledger import JobLedger


def find_standing(folder: JobFolder, name: str) -> "JobLedger | None":
    """The job `name` that a run would continue; None where it would begin one.

    Raises:
        JournalDamaged, JournalTooNew: as a run would.
    """
    if not folder.ledger.is_file():
        return None
    from coordinator.continuing import state_of
    from coordinator.core.ledger import Ledger
    from coordinator.jobs import FORGOTTEN
    from coordinator.journal import Journal

    ledger = Ledger()
    with tempfile.TemporaryDirectory(prefix="headrace-plan-") as copies:
        for path in (folder.ledger, folder.ledger.with_name(f"{folder.ledger.name}-wal")):
            if path.is_file():
                shutil.copyfile(path, Path(copies) / path.name)
        journal = Journal.open(Path(copies) / folder.ledger.name)
        try:
            for number, fact in journal.replay():
                ledger.apply(fact, number)
        finally:
            journal.close()
    known = [job for job in ledger.jobs.values() if job.planned.name == name and state_of(job) not in FORGOTTEN]
    return known[-1] if known else None
