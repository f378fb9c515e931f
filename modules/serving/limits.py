"""How much a server takes on."""

from pydantic import Field

from modules.config import Config


class Limits(Config):
    """What one request, and all of them, may ask for."""

    rows: int = Field(16, ge=1)
    """Continuations at once, per model."""
    queue: int = Field(128, ge=1)
    """Continuations that may wait, per model; more are answered 429."""
    body: int = Field(2**20, ge=1)
    """Bytes of a request."""
    tokens: int = Field(1024, ge=1)
    """Tokens of one continuation."""
    texts: int = Field(64, ge=1)
    """Prompts, texts or rows in one request."""
    seconds: float = Field(120.0, gt=0)
    """From a request's arrival to the end of its answer."""
