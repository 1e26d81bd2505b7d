"""The stage graph over the arena: which piece goes to which predictor next, and who may use which bytes.

Events come in as method calls (`admit`, `done`, `failed`, `space_needed`, ...), what must happen goes out as a list of
actions. Rules:

* A batch is admitted only when its source region and the expected output of every stage fit, so an admitted batch can
  run to its end without asking for more unless a stage made more than was expected of it.
* Oldest first, in every queue. Two pieces per predictor (credits), so that it never waits for the sidecar.
* No deadlock: a predictor whose result is larger than its slot keeps it and waits for space, the oldest first, and no
  batch is admitted meanwhile. When nothing else can move, the youngest batch that waits is dropped and fed again
  later; the last one is fed again in halves, and a single row whose results don't fit an empty arena is rejected.
  Every stall thus drops a batch, and what was learnt of its size keeps it out until it fits.
* A region is dropped when the last stage that reads it is done. One that a dead predictor may still write to is not
  touched before `predictor_ended`, which the host sends only after the whole process group is gone.

Not here: what becomes of a piece that fails (`failures`), how bytes get there (`sidecar.predictors`), the order of
output rows (`sidecar.shard_run`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from headrace.local.columns import Column, aligned
from headrace.local.messages import WRONG_ROWS
from headrace.words import SOURCE
from sidecar.core.batches import (
    Action,
    Batch,
    Blame,
    FeedAgain,
    Finished,
    GiveSpace,
    Piece,
    Replace,
    Send,
    ShardKey,
    Slot,
    StageFailed,
    StageWiring,
)
from sidecar.core.failures import Budget, StageFailures, Trial
from sidecar.core.pieces import cut
from sidecar.core.sizes import SLOT_SLACK_BYTES, column_bytes
from sidecar.core.space import Region, Space
from sidecar.core.stages import CREDITS, Flight, Predictor, Stage


@dataclass(frozen=True, slots=True)
class _Want:
    """A piece whose output of `stage`, kept by `predictor`, needs `nbytes`."""

    piece: int
    stage: str
    predictor: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Admission:
    """Room for a batch: its source columns go to `offset`."""

    batch: Batch
    region: Region
    slots: Mapping[str, Slot]

    @property
    def offset(self) -> int:
        """Where in the arena the source columns go."""
        return self.region.offset


class TooLarge:
    """Not even an empty arena has room for so many rows."""


class Pipeline:
    """All batches between admission and the sink."""

    def __init__(
        self,
        stages: Sequence[StageWiring],
        sink_reads: frozenset[str],
        space: Space,
        window: int,
        budget: Budget,
    ) -> None:
        """`window` bounds the batches between admission and `written`, and may be changed; `budget` is that of the
        job's rejects."""
        self._stages = {wiring.name: Stage(wiring, StageFailures(budget)) for wiring in stages}
        self._space = space
        self.window = window
        self._readers = {SOURCE: 0} | dict.fromkeys(self._stages, 0)
        for wiring in stages:
            for producer in wiring.producers:
                self._readers[producer] += 1
        for producer in sink_reads - {SOURCE}:
            self._readers[producer] += 1
        self._flights: dict[int, Flight] = {}
        self._starving: list[_Want] = []
        self._live = 0
        self._unwritten = 0
        self._next_batch = 0
        self._numbers = count(1)  # of pieces

    # ------------------------------------------------------------------ admission

    def expect_output(self, stage: str, row_bytes: float) -> None:
        """What a row of `stage`'s output takes, as its specs say."""
        self._stages[stage].size.row_bytes = row_bytes

    def fit_rows(self, rows: int, source_row_bytes: float, predictors: int, *, is_wish: bool) -> int:
        """Rows of a batch so that every predictor can have its credits at once: at most `rows`, at least 1.

        If `rows` isn't just a wish, it stays, and more of the arena is used instead.
        """
        batches = 1 + CREDITS * predictors
        row_bytes = source_row_bytes + sum(stage.size.row_bytes for stage in self._stages.values())
        slack = (1 + len(self._stages)) * SLOT_SLACK_BYTES
        batch_bytes = rows * row_bytes + slack
        if batches * batch_bytes <= self._space.soft:
            return rows
        if not is_wish:
            self._space.make_room(int(batches * batch_bytes))
            return rows
        return max(1, min(rows, int((self._space.soft / batches - slack) / row_bytes)))

    def admit(
        self, shard: ShardKey, rows: int, source_bytes: int, age: int | None = None
    ) -> Admission | TooLarge | None:
        """Room for `rows` rows whose source columns take `source_bytes`; None: not now. `age`: of rows fed again."""
        if self._live >= self.window or self._starving:
            return None
        sizes = {name: stage.size.slot_bytes(rows) for name, stage in self._stages.items()}
        if self._live and not self._space.fits_softly(aligned(source_bytes) + sum(sizes.values())):
            return None
        taken = self._take_all({SOURCE: source_bytes} | sizes)
        if taken is None and rows == 1 and not self._live:
            # What its outputs take is a guess by other rows: only trying tells.
            taken = self._take_all({SOURCE: source_bytes} | dict.fromkeys(sizes, SLOT_SLACK_BYTES))
        if taken is None:
            return None if self._live else TooLarge()
        batch = Batch(self._next_batch, self._next_batch if age is None else age, shard, rows)
        self._next_batch += 1
        self._live += 1
        source = taken.pop(SOURCE)
        return Admission(batch, source, {name: Slot([r], r.offset, r.nbytes) for name, r in taken.items()})

    def _take_all(self, sizes: Mapping[str, int]) -> dict[str, Region] | None:
        taken: dict[str, Region] = {}
        for name, nbytes in sizes.items():
            region = self._space.take(nbytes)
            if region is None:
                self._drop(list(taken.values()))
                return None
            taken[name] = region
        return taken

    def withdraw(self, admission: Admission) -> None:
        """The admitted batch won't come."""
        self._space.drop(admission.region)
        for slot in admission.slots.values():
            self._drop(slot.regions)
        self._live -= 1

    def start(self, admission: Admission, columns: Mapping[str, Column], blamed: Mapping[int, Blame]) -> list[Action]:
        """The source columns are in place; `blamed` rows hold fill values and are already rejected."""
        batch = admission.batch
        batch.blamed.update(blamed)
        piece = Piece(
            number=next(self._numbers),
            batch=batch,
            begin=0,
            end=batch.rows,
            columns={SOURCE: columns},
            regions={SOURCE: [admission.region]},
            slots=dict(admission.slots),
            readers=dict(self._readers),
        )
        if piece.readers[SOURCE] == 0:
            self._forget(piece, SOURCE)
        batch.open_pieces = 1
        flight = Flight(piece, undone=set(self._stages))
        self._flights[piece.number] = flight
        return [*self._advance(flight), *self._dispatch()]

    # ------------------------------------------------------------------ predictors

    def predictor_ready(self, stage: str, predictor: int) -> list[Action]:
        """A predictor can take pieces."""
        self._stages[stage].predictors[predictor] = Predictor()
        return self._dispatch()

    def predictor_ending(self, stage: str, predictor: int) -> None:
        """A predictor was told to end: it gets no more pieces, and keeps those it has until it is gone."""
        self._stages[stage].predictors[predictor].ending = True

    def predictor_ended(self, stage: str, predictor: int, kind: str, message: str) -> list[Action]:
        """A predictor and its whole process group are gone; of its pieces only the one it was executing is suspect.

        `kind` and `message` say how, for the rows that made it end.
        """
        gone = self._stages[stage].predictors.pop(predictor, None)
        self._starving[:] = [want for want in self._starving if want.predictor != predictor or want.stage != stage]
        actions: list[Action] = []
        for i, number in enumerate(gone.pieces if gone else ()):
            flight = self._flights[number]
            flight.busy.discard(stage)
            if i == 0 and gone is not None and not gone.doubted:
                actions += self._judge(flight, Blame(stage, kind, message), None)
            actions += self._advance(flight)
        return [*actions, *self._move()]

    def done(
        self, stage: str, predictor: int, piece: int, columns: Mapping[str, Column], blamed: Mapping[int, Blame]
    ) -> list[Action]:
        """A predictor has written the outputs of a piece where it was told to; `blamed` rows of it are rejected.

        A blamed row goes on with the others, whatever the stage gave for it, and is left out in the end.
        """
        flight = self._returned(stage, predictor, piece)
        done = flight.piece
        self._stages[stage].failures.came_through()
        self._stages[stage].predictors[predictor].failed_in_row = 0
        actions: list[Action] = []
        if done.trial is not None and done.trial.stage == stage:
            if done.trial.part_passed():
                why = "it gives as many rows as it is given for each part of a batch, but not for the batch"
                actions.append(StageFailed(Blame(stage, WRONG_ROWS, done.trial.message), why, is_certain=True))
            done.trial = None
        for row, blame in blamed.items():
            done.batch.blamed.setdefault(done.begin + row, blame)
        slot = done.slots.pop(stage)
        done.columns[stage] = columns
        *outgrown, region = slot.regions
        self._drop(outgrown)
        done.regions[stage] = [region]
        flight.undone.discard(stage)
        done.failed.pop(stage, None)
        if done.rows:
            self._stages[stage].size.learn(sum(map(column_bytes, columns.values())) / done.rows)
        for producer in self._stages[stage].wiring.producers:
            done.readers[producer] -= 1
            if done.readers[producer] == 0:
                self._forget(done, producer)
        if done.readers[stage] == 0:
            self._forget(done, stage)
        return [*actions, *self._advance(flight), *self._move()]

    def failed(self, stage: str, predictor: int, piece: int, kind: str, message: str) -> list[Action]:
        """The stage raised an exception on a piece."""
        flight = self._returned(stage, predictor, piece)
        self._stages[stage].predictors[predictor].failed_in_row += 1
        return [*self._judge(flight, Blame(stage, kind, message), predictor), *self._advance(flight), *self._move()]

    def space_needed(self, stage: str, predictor: int, piece: int, nbytes: int) -> list[Action]:
        """A result takes `nbytes`, more than its slot; the predictor keeps it until it is answered."""
        self._stages[stage].predictors[predictor].blocked = True
        rows = self._flights[piece].piece.rows
        self._stages[stage].size.learn(nbytes / max(rows, 1))
        self._starving.append(_Want(piece, stage, predictor, nbytes))
        return self._move()

    def is_searching(self, stage: str, predictor: int) -> bool:
        """Whether failing on what the predictor executes would only say where to cut next: no row is blamed for it."""
        piece = self._flights[self._stages[stage].predictors[predictor].pieces[0]].piece
        return piece.rows > 1 if piece.failed.get(stage) else not piece.is_whole

    def is_tried_again(self, piece: int, rows: int) -> bool:
        """Whether a piece of `rows` rows that came back without a result is tried again, as it is or in parts."""
        flight = self._flights.get(piece)
        return rows > 1 or (flight is not None and not flight.blame)

    # ------------------------------------------------------------------ the end of batches

    def written(self, batch: Batch) -> list[Action]:
        """The finished batch has been copied out of the arena."""
        for piece in batch.finished:
            self._release(piece)
        self._live -= 1
        self._unwritten -= 1
        return self._move()

    def cancel(self, shard: ShardKey) -> list[Action]:
        """Nobody wants this lease's batches any more; what predictors hold of it is dropped as it comes back."""
        actions: list[Action] = []
        for batch in {flight.piece.batch for flight in self._flights.values() if flight.piece.batch.shard == shard}:
            actions += self._drop_batch(batch)
        return [*actions, *self._move()]

    @property
    def live(self) -> int:
        """Batches admitted and not yet written."""
        return self._live

    def queued(self, stage: str) -> int:
        """Pieces waiting for a predictor of `stage`."""
        return self._stages[stage].waiting(self._flights)

    # ------------------------------------------------------------------ inside

    def _judge(self, flight: Flight, blame: Blame, predictor: int | None) -> list[Action]:
        """A piece has failed: on `predictor`, or on one that is gone."""
        piece, stage = flight.piece, self._stages[blame.stage]
        if piece.batch.cancelled or flight.blame:
            return []
        tried = piece.failed.setdefault(blame.stage, [])
        tried.append(predictor)
        if predictor is not None and piece.rows == 1 and self._is_doubtful(stage, stage.predictors[predictor]):
            return [Replace(blame.stage, predictor)]
        can_move = predictor is None or len(stage.predictors) > 1
        if stage.failures.tries_again(piece.rows, len(tried), is_whole=piece.is_whole, can_move=can_move):
            return []
        flight.blame = blame
        if stage.failures.give_up():
            why = "it failed on every row that it was given, alone or with others"
            return [StageFailed(blame, why, is_certain=False)]
        return []

    def _returned(self, stage: str, predictor: int, piece: int) -> Flight:
        holder = self._stages[stage].predictors[predictor]
        holder.pieces.remove(piece)
        holder.blocked = False
        self._starving[:] = [want for want in self._starving if want.piece != piece or want.stage != stage]
        flight = self._flights[piece]
        flight.busy.discard(stage)
        return flight

    def _forget(self, piece: Piece, producer: str) -> None:
        piece.columns.pop(producer, None)
        self._drop(piece.regions.pop(producer))

    def _drop_batch(self, batch: Batch) -> list[Action]:
        """Ends a batch wherever its pieces are; those that predictors execute end when they come back."""
        batch.cancelled = True
        actions: list[Action] = []
        for want in [want for want in self._starving if self._flights[want.piece].piece.batch is batch]:
            self._returned(want.stage, want.predictor, want.piece)
            actions.append(GiveSpace(want.stage, want.predictor, want.piece, 0, 0))
        for flight in [flight for flight in self._flights.values() if flight.piece.batch is batch]:
            actions += self._advance(flight)
        return actions

    def _drop(self, regions: Sequence[Region]) -> None:
        for region in regions:
            self._space.drop(region)

    def _release(self, piece: Piece) -> None:
        for regions in piece.regions.values():
            self._drop(regions)
        for slot in piece.slots.values():
            self._drop(slot.regions)
        piece.regions.clear()
        piece.slots.clear()
        piece.columns.clear()

    def _is_doubtful(self, stage: Stage, holder: Predictor) -> bool:
        """Whether a predictor is ended because only another one can tell if it or the rows are bad."""
        if holder.ending or len(stage.predictors) > 1 or not stage.failures.doubts(holder.failed_in_row):
            return False
        holder.ending = holder.doubted = True
        return True

    def _advance(self, flight: Flight) -> list[Action]:
        """Queues a piece for the stages that can run now, or ends it."""
        piece = flight.piece
        if piece.batch.cancelled or flight.blame:
            if flight.busy:
                return []  # others still read its regions; they come back here
            del self._flights[piece.number]
            if flight.blame and not piece.batch.cancelled:
                if piece.rows > 1:
                    self._cut(flight, flight.blame)
                    return []
                piece.batch.blamed.setdefault(piece.begin, flight.blame)
            self._release(piece)
            return self._ended(piece)
        if not flight.undone:
            del self._flights[piece.number]
            piece.batch.finished.append(piece)
            return self._ended(piece)
        for name in flight.undone - flight.busy:
            stage = self._stages[name]
            if all(producer in piece.columns or producer == SOURCE for producer in stage.wiring.producers):
                stage.queue(piece)
        return []

    def _ended(self, piece: Piece) -> list[Action]:
        batch = piece.batch
        batch.open_pieces -= 1
        if batch.open_pieces:
            return []
        if batch.cancelled:
            for finished in batch.finished:
                self._release(finished)
            self._live -= 1
            return []
        batch.finished.sort(key=lambda part: part.begin)
        self._unwritten += 1
        return [Finished(batch)]

    def _cut(self, flight: Flight, blame: Blame) -> None:
        parent = flight.piece
        bounds = self._stages[blame.stage].failures.cuts(parent.rows)
        trial = Trial(blame.stage, blame.message, len(bounds)) if blame.kind == WRONG_ROWS else None
        parent.batch.open_pieces += len(bounds) - 1
        for part in cut(parent, bounds, self._numbers, self._space):
            part.trial = trial
            child = Flight(part, undone=set(flight.undone))
            self._flights[part.number] = child
            self._advance(child)
        self._release(parent)

    def _move(self) -> list[Action]:
        """After anything was freed or came back: serve those who wait, then break a stall if there is one."""
        actions = [*self._serve(), *self._dispatch()]
        while self._starving and self._is_stalled():
            actions += [*self._give_way(), *self._serve(), *self._dispatch()]
        return actions

    def _serve(self) -> list[Action]:
        """Gives space to those who wait for it, oldest first, until it runs out."""
        actions: list[Action] = []
        for want in sorted(self._starving, key=self._age):
            region = self._space.take(want.nbytes)
            if region is None:
                break
            self._starving.remove(want)
            slots = self._flights[want.piece].piece.slots
            slots[want.stage] = Slot([*slots[want.stage].regions, region], region.offset, region.nbytes)
            self._stages[want.stage].predictors[want.predictor].blocked = False
            actions.append(GiveSpace(want.stage, want.predictor, want.piece, region.offset, region.nbytes))
        return actions

    def _age(self, want: _Want) -> tuple[int, int]:
        return self._flights[want.piece].piece.age

    def _is_stalled(self) -> bool:
        if self._unwritten:
            return False
        for stage in self._stages.values():
            moving = [predictor for predictor in stage.predictors.values() if not predictor.blocked]
            if any(predictor.pieces for predictor in moving):
                return False
            if (moving or not stage.predictors) and stage.waiting(self._flights):
                return False
        return True

    def _give_way(self) -> list[Action]:
        """Breaks a stall."""
        want = max(self._starving, key=self._age)
        batch = self._flights[want.piece].piece.batch
        is_alone = self._live == 1
        if is_alone and batch.rows == 1:
            flight = self._returned(want.stage, want.predictor, want.piece)
            flight.blame = Blame(want.stage, "TooLarge", f"its result of {want.nbytes} bytes exceeds the arena")
            return [GiveSpace(want.stage, want.predictor, want.piece, 0, 0), *self._advance(flight)]
        again = FeedAgain(batch, batch.rows // 2 if is_alone else batch.rows)
        return [*self._drop_batch(batch), again]

    def _dispatch(self) -> list[Action]:
        return [action for stage in self._stages.values() for action in self._dispatch_stage(stage)]

    def _dispatch_stage(self, stage: Stage) -> Iterator[Action]:
        name = stage.wiring.name
        for predictor, piece in stage.assign(self._flights):
            slot = piece.slots[name]
            inputs = {
                feed: tuple(piece.columns[producer][column] for producer, column in columns)
                for feed, columns in stage.wiring.feeds
            }
            yield Send(name, predictor, piece.number, piece.rows, inputs, slot.offset, slot.nbytes)
