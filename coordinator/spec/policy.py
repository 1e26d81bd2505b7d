"""How a job copes and what it may use: `spec.errors`, `retries`, `workers`, `placement`."""

from typing import Annotated, Any, Literal

from pydantic import Field

from coordinator.spec.scalars import AutoCount, AutoDuration, AutoSize, Budget, Duration, RejectBudget
from coordinator.spec.strict import Strict, not_built


class ErrorsSpec(Strict):
    """What becomes of rows that can't be predicted."""

    max_rejected: Budget = Field(
        default=RejectBudget(None, 0.001), description="Rows (100) or share of the rows read (0.1%); more fail the job."
    )
    on_reject: Literal["keep", "address"] = Field(
        default="keep", description="keep: rejects carry the row's source columns; address: only where the row is."
    )
    nan: Literal["keep", "reject"] = Field(
        default="keep", description="reject: a row with NaN in an output is rejected."
    )
    on_quarantine: Literal["fail", "degrade"] = Field(
        default="fail", description="What a shard that used up its attempts does to the job."
    )


class RetriesSpec(Strict):
    """How long to try."""

    attempts: int = Field(default=4, ge=1, description="Grants of one shard that may end in failure.")
    batch_timeout: AutoDuration = Field(default=None, description="A predictor that takes longer is replaced.")
    coordinator_timeout: Duration = Field(default=3600.0, description="Workers exit when it is away for longer.")


class WorkersSpec(Strict):
    """How many workers, and what each may use."""

    min: int | None = not_built("Workers to keep.")
    max: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Most workers at once.")
    arena: AutoSize = Field(default=None, description="Bytes of shared memory in each worker, such as 512Mi, or auto.")
    predictors_max: AutoCount = Field(default=None, description="Predictors in one worker, over all stages.")
    template: dict[str, Any] | None = not_built("Anything of a pod spec.")


class PlacementSpec(Strict):
    """Where and by when to run."""

    pools: list[str] | None = not_built("Pools that workers may be placed on.")
    deadline: str | None = not_built("When the job should be done.")
    budget: float | None = not_built("What it may cost.")
