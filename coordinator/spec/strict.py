"""The strict model that all parts of a job file derive from, and how a field says that it isn't built yet."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

NOT_BUILT = "x-headrace-not-built"
"""Key in a field's JSON Schema: setting the field is refused as "not supported yet" (`coordinator.spec.built`)."""


class Strict(BaseModel):
    """Frozen, camelCase in files and snake_case in code; unknown fields are errors."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        hide_input_in_errors=True,
    )


def not_built(description: str) -> Any:
    """A field that is part of the design and whose feature doesn't exist yet: any value may be written, none works."""
    return Field(default=None, description=f"{description} Not supported yet.", json_schema_extra={NOT_BUILT: True})
