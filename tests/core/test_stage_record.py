"""What a worker measures of a stage: seconds that predictors waited, batches by size and time."""

from headrace.buckets import BATCH_ROWS, BATCH_SECONDS
from headrace.local.messages import Specs
from sidecar.stage_record import StageRecord

SPECS = Specs({}, None)


def ready_record() -> StageRecord:
    """A record with predictor 1, started at 10.0 s and ready at 12.0 s."""
    record = StageRecord()
    record.started(1, 10.0)
    record.ready(1, SPECS, 12.0)
    return record


def test_a_predictor_waits_for_input_while_it_holds_no_piece() -> None:
    record = ready_record()
    assert record.wait_input_s(13.0) == 1.0
    record.sent(1, 7, 100, 13.0)
    record.sent(1, 8, 50, 13.5)
    assert (record.rows_in_progress, record.wait_input_s(20.0)) == (150, 1.0)
    record.came_back(1, 7, 14.0)
    assert (record.rows_in_progress, record.wait_input_s(20.0)) == (50, 1.0)
    record.came_back(1, 8, 15.0)
    assert record.wait_input_s(20.0) == 1.0 + 5.0
    assert record.predictor_s(20.0) == 8.0


def test_a_predictor_waits_for_output_while_its_result_has_no_space() -> None:
    record = ready_record()
    record.sent(1, 7, 100, 12.0)
    record.blocked(1, 13.0)
    assert record.wait_output_s(15.0) == 2.0
    record.unblocked(1, 16.0)
    assert record.wait_output_s(99.0) == 3.0


def test_sums_do_not_fall_when_a_predictor_ends() -> None:
    record = ready_record()
    record.sent(1, 7, 100, 13.0)
    record.blocked(1, 14.0)
    assert record.ended(1, 15.0, is_hang=False) == [(7, 100)]
    assert (record.wait_input_s(99.0), record.wait_output_s(99.0), record.predictor_s(99.0)) == (1.0, 1.0, 3.0)
    assert record.rows_in_progress == 0


def test_pieces_without_a_result_are_counted() -> None:
    record = ready_record()
    record.sent(1, 7, 100, 12.0)
    record.failed(record.came_back(1, 7, 13.0))
    record.sent(1, 8, 1, 13.0)
    record.failed(record.came_back(1, 8, 13.0))
    record.sent(1, 9, 30, 13.0)
    assert record.ended(1, 14.0, is_hang=True) == [(9, 30)]
    record.started(2, 14.0)
    record.ready(2, SPECS, 15.0)
    record.sent(2, 9, 30, 15.0)
    assert record.ended(2, 16.0, is_hang=False) == [(9, 30)]
    assert (record.restarts, record.hangs, record.rows_in, record.rows_out) == (2, 1, 101, 0)


def test_a_predictor_that_never_got_ready_is_no_restart() -> None:
    record = StageRecord()
    record.started(1, 10.0)
    assert record.ended(1, 11.0, is_hang=False) == []
    assert (record.restarts, record.load_s) == (0, 0.0)


def test_loads_and_batches_are_measured() -> None:
    record = ready_record()
    assert record.load_s == 2.0
    for rows, busy_s in ((BATCH_ROWS[0], BATCH_SECONDS[0]), (BATCH_ROWS[-1] + 1, BATCH_SECONDS[-1] * 2)):
        record.done(rows, busy_s, 20.0)
    assert (record.rows_counts[0], record.rows_counts[-1], sum(record.rows_counts)) == (1, 1, 2)
    assert (record.seconds_counts[0], record.seconds_counts[-1], sum(record.seconds_counts)) == (1, 1, 2)
    assert record.last_done_at == 20.0
