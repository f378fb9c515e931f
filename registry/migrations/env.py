"""Alembic's entry: run migrations on the connection that the workspace hands over."""

from alembic import context

from registry import ledger_tables  # noqa: F401 (its tables belong to the metadata)
from registry.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite cannot alter most things in place
    transactional_ddl=True,  # a killed migration leaves nothing behind
)
with context.begin_transaction():
    context.run_migrations()
