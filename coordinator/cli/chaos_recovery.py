"""What a run looks like from outside while it recovers: its processes, its workers' leases, its coordinator's term.

Not here: how things are broken (`chaos_victims`), what is made of the times (`chaos_report`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from grpclib.exceptions import GRPCError

from headrace import v1
from headrace.channel import BROKEN, open_channel
from headrace.words import TERMINAL_PHASES

ASK_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Sight:
    """The job as its coordinator told it; `None` in place of one: nobody answered."""

    term: int
    is_ended: bool
    pending: int
    leases: int  # of all workers
    incarnations: Mapping[str, str]  # worker -> incarnation, of those that aren't lost
    leases_of: Mapping[str, int]

    @property
    def is_working(self) -> bool:
        """Somebody holds a lease, or nothing is left to lease."""
        return self.leases > 0 or self.pending == 0

    def works(self, worker: str) -> bool:
        """Whether the worker holds a lease, or nothing is left to lease."""
        return worker in self.incarnations and (self.leases_of[worker] > 0 or self.pending == 0)


class Watcher:
    """Asks one job's coordinator, again and again, through its losses."""

    def __init__(self, address: str, job: str) -> None:
        self._channel = open_channel(address)
        self._stub = v1.JobServiceStub(self._channel, timeout=ASK_TIMEOUT_S)
        self._job = job

    async def look(self) -> Sight | None:
        """The job now; None while nobody answers, or knows it."""
        try:
            job = await self._stub.get(v1.JobRequest(self._job))
            workers = (await self._stub.list_workers(v1.JobRequest(self._job))).workers
        except BROKEN:
            self._channel.close()  # the next question opens another connection
            return None
        except GRPCError:
            return None
        live = [worker for worker in workers if worker.state != "lost"]
        return Sight(
            term=job.term,
            is_ended=job.phase in TERMINAL_PHASES,
            pending=job.shards_pending,
            leases=sum(worker.leases for worker in live),
            incarnations={worker.name: worker.incarnation for worker in live},
            leases_of={worker.name: worker.leases for worker in live},
        )

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()
