"""A worker that says things about leases that aren't its: nothing of that may change anything (law 10).

Not here: its honest side (`worker_actor`).
"""

from dataclasses import dataclass, field, replace

from coordinator.core.facts import OutputFile, RowCounts
from coordinator.core.lease_values import Held
from coordinator.exchange import Answer, CommitAsked, Offer, Released, Report
from headrace.publish import part_name
from headrace.words import Epoch, ShardId
from tests.sim.lease_work import Key
from tests.sim.worker_actor import WorkerActor


@dataclass
class Liar(WorkerActor):
    """Does its own work honestly, and says things about leases that aren't its and never were."""

    own: set[Key] = field(default_factory=set)

    async def _apply(self, answer: Answer) -> None:
        self.own.update((grant.shard, grant.epoch) for grant in answer.grants)
        await super()._apply(answer)

    def report(self) -> Report:
        report, random, units = super().report(), self.environment.random, self.environment.story.units
        if random.random() < 0.3:
            return report
        key = (ShardId(random.randrange(12)), Epoch(random.randint(1, 3)))
        if key in self.own:
            return report
        begin, end = sorted((random.randrange(-1, units + 2), random.randrange(-1, units + 2)))
        match random.randrange(5):
            case 0:
                held = Held(*key, begin, end, random.randrange(-5, units + 5))
                return replace(report, held=(*report.held, held))
            case 1:
                counts = RowCounts(end - begin, 0, end - begin, 0)
                wish = CommitAsked(*key, begin, end, counts, self._forged(key, end - begin))
                return replace(report, commits=(*report.commits, wish))
            case 2:
                return replace(report, published=(*report.published, key))
            case 3:
                released = Released(*key, True, "I don't want them to have it", "")
                return replace(report, releases=(*report.releases, released))
            case _:
                return replace(report, offers=(*report.offers, Offer(*key, random.randrange(-1, units))))

    def _forged(self, key: Key, rows: int) -> tuple[OutputFile, ...]:
        assert self._welcome is not None
        name = part_name(key[0], self._welcome.job_uid, key[1], "forged", ".jsonl")
        return (OutputFile(name, "data", 1, "", rows),)
