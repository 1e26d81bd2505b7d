"""Facts as bytes and back, and one worker's life as the facts that it leaves."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core import facts
from coordinator.core.columns import pack_column, unpack_column
from coordinator.core.encoding import BadFact, decode, encode
from coordinator.core.facts import Ended, EpochEnded, Fact, OutputFile, RowCounts
from coordinator.core.lease_values import Held
from coordinator.core.leases import LeaseTable
from headrace.dataset import CorruptUnits
from headrace.words import Epoch, Incarnation, ShardId, WorkerName

TRANSCRIPT = Path(__file__).parent / "transcripts" / "one_workers_life.txt"

SMALL = st.integers(0, 2**16 - 1)
LARGE = st.integers(0, 2**32 - 1)
UNITS = st.integers(0, 2**62)
# Paths may hold bytes that are not UTF-8; Python carries them as lone surrogates of this range.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF))
COUNTS = st.builds(RowCounts, *[UNITS] * 6)
CORRUPT = st.builds(CorruptUnits, UNITS, UNITS, TEXTS)
FILES = st.builds(OutputFile, TEXTS, TEXTS, UNITS, TEXTS, UNITS)
ANY_FACT = st.one_of(
    st.builds(facts.TermRaised, UNITS),
    st.builds(
        facts.JobPlanned,
        SMALL,
        UNITS,
        UNITS,
        UNITS,
        LARGE,
        UNITS,
        UNITS,
        st.integers(-1, 2**62),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        *[TEXTS] * 7,
    ),
    *[st.builds(part, SMALL, LARGE, st.binary()) for part in (facts.FilesPart, facts.CutsPart, facts.ShardsPart)],
    st.builds(facts.JobChanged, SMALL, TEXTS, TEXTS, TEXTS, TEXTS),
    st.builds(facts.OutputStep, SMALL, TEXTS, TEXTS),
    st.builds(facts.Granted, SMALL, UNITS, LARGE, TEXTS, TEXTS),
    st.builds(EpochEnded, SMALL, UNITS, LARGE, st.sampled_from(Ended), st.booleans(), TEXTS),
    st.builds(facts.ChargeReturned, SMALL, UNITS, LARGE),
    st.builds(facts.SplitMade, SMALL, UNITS, UNITS, UNITS),
    st.builds(facts.SchemaAgreed, SMALL, TEXTS),
    st.builds(facts.WorkerSeated, TEXTS, TEXTS),
    st.builds(
        facts.CommitDecided,
        SMALL,
        UNITS,
        LARGE,
        UNITS,
        UNITS,
        COUNTS,
        TEXTS,
        TEXTS,
        st.lists(FILES, max_size=3).map(tuple),
        st.lists(CORRUPT, max_size=3).map(tuple),
    ),
    st.builds(facts.Published, SMALL, UNITS, LARGE),
    st.builds(facts.AllPublished, SMALL),
    st.builds(facts.Revoked, SMALL, UNITS, LARGE, COUNTS),
    st.builds(facts.Quarantined, SMALL, UNITS, TEXTS),
    st.builds(facts.TablePage, SMALL, UNITS, LARGE, st.binary()),
    st.builds(facts.Checkpoint, SMALL, st.binary()),
)


@given(fact=ANY_FACT)
def test_a_fact_comes_back_as_it_was(fact: Fact) -> None:
    again = decode(encode(fact))
    assert again == fact
    assert type(again) is type(fact)


@given(fact=ANY_FACT, cut=st.integers(1, 40))
def test_a_shortened_fact_is_refused_or_reads_as_a_shorter_one(fact: Fact, cut: int) -> None:
    body = encode(fact)
    try:
        again = decode(body[:-cut])
    except BadFact:
        return
    # A commit may lose its last file; the journal's chain is what notices.
    assert again != fact


@given(body=st.binary(max_size=200))
def test_any_bytes_are_a_fact_or_a_bad_fact(body: bytes) -> None:
    try:
        decode(body)
    except BadFact:
        return


@pytest.mark.parametrize("body", [b"", b"\x00", b"\x0c" * 99, b"\x0f" * 99, b"\xff" * 10])
def test_an_unknown_kind_is_refused(body: bytes) -> None:
    with pytest.raises(BadFact, match="unknown fact kind"):
        decode(body)


@given(values=st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_a_packed_column_comes_back_as_it_was(values: list[int]) -> None:
    column = np.array(values, np.int64)
    assert unpack_column(pack_column(column), column.dtype, len(column)).tolist() == values


def test_a_damaged_column_is_refused() -> None:
    packed = pack_column(np.arange(100))
    with pytest.raises(ValueError, match="damaged"):
        unpack_column(packed[:-3], np.dtype(np.int64), 100)
    with pytest.raises(ValueError, match="bytes instead of"):
        unpack_column(packed, np.dtype(np.int64), 99)


def one_workers_life() -> str:
    """What a worker does from its first grant to its drain, and the facts of each step."""
    table = LeaseTable(1, np.array([100, 200], np.int64), cuts=np.array([50, 100, 150, 200]), attempts_max=3)
    ada, first, second = WorkerName("ada"), Incarnation("first"), Incarnation("second")
    out = io.StringIO()

    def step(what: str, decided: object) -> None:
        out.write(f"{what}\n")
        for fact in decided if isinstance(decided, list) else [decided]:
            out.write(f"    {fact}\n")
        counts = table.counts
        assert counts.total == counts.pending + counts.leased + counts.committed + counts.quarantined
        out.write(
            f"    -- pending {counts.pending}, leased {counts.leased}, committing {counts.committing}, "
            f"committed {counts.committed}, rows out {table.rows.out}\n"
        )

    def commit(incarnation: Incarnation, shard: int, epoch: int, begin: int, end: int, now: float) -> object:
        rows = end - begin
        return table.commit(
            ada,
            incarnation,
            ShardId(shard),
            Epoch(epoch),
            begin=begin,
            end=end,
            counts=RowCounts(rows, 0, rows - 1, 1),
            files=[OutputFile(f"part-{shard}-{epoch}.parquet", "data", 10 * rows, "d1", rows - 1)],
            now=now,
            publish_ttl_s=30,
        )

    step("ada registers, holding nothing", table.register(ada, first, [], 0, 30)[0])
    step("she is granted a small front", table.grant(ada, first, 0, 30, units_max=40))
    step("and reports that she has read ten", table.renew(ada, first, Held(ShardId(0), Epoch(1), 0, 50, 10), 5, 30))
    step("she commits it whole", commit(first, 0, 1, 0, 50, 10))
    step("the answer is lost, she commits again", commit(first, 0, 1, 0, 50, 12))
    step("she publishes", table.published(ada, ShardId(0), Epoch(1)))
    step("she is granted the rest", table.grant(ada, first, 13, 30))
    step("and split at 75, which she won't pass", table.split(ada, first, ShardId(2), Epoch(1), 75))
    step("her sidecar dies; the new one knows nothing", table.register(ada, second, [], 20, 30)[0])
    step("the old one's commit comes late", commit(first, 2, 1, 50, 75, 21))
    step("the shard is granted again", table.grant(ada, second, 22, 30))
    step("she is told to drain and commits what she has", commit(second, 2, 2, 50, 60, 25))
    step("and is lost before she publishes", table.worker_lost(ada))
    step("the coordinator's to publish", table.publishes_due(26))
    step(
        "her staging is gone",
        table.revoke(facts.CommitDecided(1, ShardId(2), Epoch(2), 50, 60, RowCounts(10, 0, 9, 1), ada, second, ())),
    )
    return out.getvalue()


def test_one_workers_life_leaves_these_facts() -> None:
    """To accept a change: python -c 'import test_facts as t; t.TRANSCRIPT.write_text(t.one_workers_life())'."""
    assert one_workers_life() == TRANSCRIPT.read_text()
