"""One output has one schema: whose is agreed, what else is refused, what a restart brings back."""

import numpy as np
import pytest

from coordinator.core.facts import CommitDecided, Fact, OutputFile, RowCounts, SchemaAgreed, SplitMade
from coordinator.core.lease_values import AlreadyWon, OtherSchema, Refused, Stale
from coordinator.core.leases import LeaseTable
from coordinator.core.schema import columns_of, differences, schema_of
from headrace.words import Epoch, Incarnation, ShardId, WorkerName

ADA, ONE = WorkerName("ada"), Incarnation("one")
INTS, FLOATS = '[["n","int64"]]', '[["n","double"]]'
FILES = (OutputFile("part-0", "data", 9, "d1", 1),)


def leased(shards: int = 3) -> LeaseTable:
    table = LeaseTable(1, np.arange(100, 100 * max(shards, 1) + 1, 100))
    for _ in range(shards):
        table.grant(ADA, ONE, 0.0, 10.0)
    return table


def commit(
    table: LeaseTable, shard: int, schema: str, *, end: int | None = None, epoch: int = 1
) -> list[Fact] | Stale | Refused | OtherSchema | AlreadyWon:
    begin, last = table.range_of(ShardId(shard))
    rows = (end or last) - begin
    return table.commit(
        ADA,
        ONE,
        ShardId(shard),
        Epoch(epoch),
        begin=begin,
        end=end or last,
        counts=RowCounts(rows, 0, rows, 0),
        files=FILES if schema else (),
        schema=schema,
    )


def kinds(facts: object) -> list[type]:
    assert isinstance(facts, list)
    return [type(fact) for fact in facts]


def test_the_first_schema_that_is_committed_is_the_outputs() -> None:
    table = leased()
    facts = commit(table, 0, INTS)
    assert kinds(facts) == [SchemaAgreed, CommitDecided]
    assert isinstance(facts, list)
    assert facts[0] == SchemaAgreed(1, INTS)
    assert kinds(commit(table, 1, INTS)) == [CommitDecided]
    assert table.schema == INTS


def test_a_commit_of_another_schema_changes_nothing() -> None:
    table = leased()
    commit(table, 0, INTS)
    before = (table.counts, table.rows, table.schema, table.shards(state=None))
    assert commit(table, 1, FLOATS) == OtherSchema(INTS, FLOATS)
    assert commit(table, 1, FLOATS, end=150) == OtherSchema(INTS, FLOATS)
    assert (table.counts, table.rows, table.schema, table.shards(state=None)) == before
    assert kinds(commit(table, 1, INTS)) == [CommitDecided]


def test_a_commit_without_data_files_agrees_to_nothing() -> None:
    table = leased()
    assert kinds(commit(table, 0, "")) == [CommitDecided]
    assert table.schema == ""
    assert kinds(commit(table, 1, FLOATS, end=150)) == [SchemaAgreed, SplitMade, CommitDecided]
    assert kinds(commit(table, 2, "")) == [CommitDecided]


def test_a_commit_that_does_not_count_agrees_to_nothing() -> None:
    table = leased()
    assert isinstance(commit(table, 0, INTS, epoch=2), Stale)
    assert isinstance(commit(table, 0, INTS, end=999), Refused)
    assert table.schema == ""


def test_the_winner_that_asks_again_gets_its_first_answer() -> None:
    table = leased()
    commit(table, 0, INTS)
    assert commit(table, 0, INTS) == AlreadyWon(False)


def test_a_schema_that_was_there_before_the_job_holds_for_its_first_commit() -> None:
    table = leased()
    assert table.agree(INTS) == [SchemaAgreed(1, INTS)]
    assert table.agree(INTS) == table.agree(FLOATS) == table.agree("") == []
    assert commit(table, 0, FLOATS) == OtherSchema(INTS, FLOATS)


@pytest.mark.parametrize("is_checkpoint", [False, True])
def test_a_restart_knows_the_schema(is_checkpoint: bool) -> None:
    table, again = leased(0), LeaseTable(1, np.array([100]))
    granted = table.grant(ADA, ONE, 0.0, 10.0)
    committed = commit(table, 0, INTS)
    assert isinstance(committed, list)
    for fact in table.checkpoint() if is_checkpoint else [*granted, *committed]:
        again.apply(fact)  # type: ignore[arg-type]
    assert again.schema == INTS


@pytest.mark.parametrize(
    ("agreed", "found", "told"),
    [
        (INTS, FLOATS, "column 'n' is double instead of int64"),
        ('[["a","int64"],["b","string"]]', '[["a","int64"]]', "column 'b' (string) is missing"),
        (INTS, '[["n","int64"],["m","bool"]]', "column 'm' (bool) is one too many"),
        (
            '[["a","int64"],["b","string"]]',
            '[["b","string"],["a","int64"]]',
            "the columns come in the order b, a instead of a, b",
        ),
        (
            schema_of([(f"c{i}", "int8") for i in range(7)]),
            schema_of([(f"c{i}", "int16") for i in range(7)]),
            ", ".join(f"column 'c{i}' is int16 instead of int8" for i in range(5)) + " and 2 more",
        ),
    ],
)
def test_a_difference_is_told_by_column_and_both_types(agreed: str, found: str, told: str) -> None:
    assert differences(agreed, found) == told


def test_columns_and_their_text_are_the_same() -> None:
    assert columns_of(INTS) == (("n", "int64"),)
    assert schema_of(columns_of(INTS)) == INTS
    assert (columns_of(""), schema_of(())) == ((), "")
