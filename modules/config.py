"""The base of every config: frozen, unknown keys refused, field docstrings become help texts."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen, checked value: flow parameter, UI form, JSON in the artifact and MLflow params."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def but(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, checked again (a misspelt field is an error)."""
        return type(self).model_validate(self.model_dump() | changes)
