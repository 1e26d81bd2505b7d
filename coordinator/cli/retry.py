"""`headrace retry --rejected`: the job as a run whose input is what it rejected.

Not here: what that run does (`coordinator.cli.run`, `coordinator.rejected`).
"""

from collections.abc import Mapping

from coordinator.cli.run import RunOptions, run_job
from coordinator.cli.show import show
from coordinator.output import CLAIM
from coordinator.rejected import find_rejected
from headrace.stores import open_store
from headrace.words import ExitCode


def retry_rejected(options: RunOptions, environ: Mapping[str, str]) -> int:
    """Runs what is rejected, if anything is; prints; returns the exit code."""
    from coordinator.spec import examine_job

    loaded = examine_job(options.path, options.sets, environ)
    if not loaded.faults:
        sink = loaded.job.absolute(loaded.folder).spec.sink
        store = open_store(sink.uri, storage=sink.storage.options)
        found = find_rejected(store)
        # What a claim is for may be a retry that has yet to end.
        if found is not None and not found.files and store.size(CLAIM) is None:
            plain = {"output": store.place, "rows_rejected": 0}
            show(plain, options.output, lambda _: [f"No row of {store.place} is rejected: nothing is to be run again."])
            return ExitCode.DONE
    return run_job(options, environ)
