"""What happened, in sentences: the lines of a transcript.

Not here: when they are said (`world`, `coordinator_actor`).
"""

from coordinator.core.facts import (
    ChargeReturned,
    CommitDecided,
    Ended,
    EpochEnded,
    Fact,
    Granted,
    JobChanged,
    OutputStep,
    Published,
    Quarantined,
    Revoked,
    SplitMade,
)
from coordinator.exchange import Answer, Report
from headrace.words import ACCEPTED

REASONS = {
    Ended.RELEASED: "was given back",
    Ended.EXPIRED: "expired",
    Ended.LOST: "lost its worker",
    Ended.SUPERSEDED: "was a former sidecar's",
    Ended.UNSEEN: "is unknown to its worker",
    Ended.BEATEN: "was beaten",
    Ended.OUTAGE: "was given back for want of a store",
}


def tell_fact(fact: Fact) -> str:
    """What the ledger says with this fact."""
    match fact:
        case Granted():
            return f"shard {fact.shard} epoch {fact.epoch} is granted to {fact.worker} ({fact.incarnation})"
        case EpochEnded():
            charged = ", charged" if fact.charged else ""
            return f"shard {fact.shard} epoch {fact.epoch} {REASONS[Ended(fact.why)]}{charged}"
        case SplitMade():
            return f"shard {fact.shard} ends at {fact.at}, the rest is shard {fact.rest}"
        case CommitDecided():
            lease = f"shard {fact.shard} epoch {fact.epoch}"
            return f"{lease} of {fact.worker} is committed: [{fact.begin}, {fact.end})"
        case Published():
            return f"shard {fact.shard} epoch {fact.epoch} is published"
        case Revoked():
            return f"the commit of shard {fact.shard} epoch {fact.epoch} is revoked"
        case ChargeReturned():
            return f"the charge of shard {fact.shard} epoch {fact.epoch} is taken back"
        case Quarantined():
            return f"shard {fact.shard} is quarantined"
        case JobChanged():
            return f"the job is {fact.state} {fact.reason}".rstrip()
        case OutputStep():
            return f"the output's step {fact.step!r} {fact.detail or 'is done'}"
    return type(fact).__name__


def tell_report(report: Report) -> list[str]:
    """What a worker asks for, as the coordinator hears it."""
    told = [f"asks for the commit of shard {c.shard} epoch {c.epoch} [{c.begin}, {c.end})" for c in report.commits]
    told += [f"says that shard {shard} epoch {epoch} is published" for shard, epoch in report.published]
    told += [f"gives back shard {r.shard} epoch {r.epoch}" for r in report.releases]
    told += [f"offers to split shard {o.shard} epoch {o.epoch} at {o.at}" for o in report.offers]
    return told


def tell_answer(report: Report, answer: Answer) -> list[str]:
    """What is answered, where it isn't what was hoped for."""
    told = [f"tells {report.worker} to {answer.directive}"] if answer.directive else []
    for verdict in (*answer.commits, *answer.published, *answer.stale):
        if verdict.outcome != ACCEPTED:
            told.append(f"answers {report.worker} {verdict.outcome} on shard {verdict.shard} epoch {verdict.epoch}")
    return told
