"""The base of every config: frozen, unknown keys refused, field docstrings become help texts."""

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen, checked value: flow parameter, UI form, JSON in the artifact and MLflow params."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    machine: ClassVar[frozenset[str]] = frozenset()
    """Fields that say how the work is done here, not what comes of it."""

    def decisive(self) -> dict[str, Any]:
        """Return the fields that the result follows from, as JSON values for a fingerprint."""
        return self.model_dump(mode="json", exclude=set(self.machine))

    def but(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, checked again (a misspelt field is an error)."""
        return type(self).model_validate(self.model_dump() | changes)
