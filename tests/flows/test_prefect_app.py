"""Scheduled runs are made: Prefect's scheduler, with our SQLAlchemy."""

import asyncio
from datetime import timedelta

import pytest
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.server import models, schemas
from prefect.server.database import provide_database_interface
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings

from flows.prefect_app import let_schedules_insert


async def schedule() -> list:
    """Create a deployment with a schedule, and the runs that are due next."""
    database = provide_database_interface()
    await database.create_db()
    async with database.session_context(begin_transaction=True) as session:
        flow = await models.flows.create_flow(
            session=session, flow=schemas.core.Flow(name="nightly")
        )
        hourly = schemas.schedules.IntervalSchedule.model_validate(
            IntervalSchedule(interval=timedelta(hours=1)).model_dump()
        )
        deployment = await models.deployments.create_deployment(
            session=session,
            deployment=schemas.core.Deployment(
                name="nightly",
                flow_id=flow.id,
                schedules=[schemas.core.DeploymentSchedule(schedule=hourly)],
            ),
        )
        await models.deployments.schedule_runs(session, deployment.id, max_runs=3, min_runs=3)
        runs = await models.flow_runs.read_flow_runs(session=session)
        ours = [run for run in runs if run.deployment_id == deployment.id]
        return [(run.state_type, run.auto_scheduled) for run in ours]


@pytest.mark.timeout(120)
def test_the_scheduler_makes_runs(tmp_path):
    let_schedules_insert()
    address = f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}"
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: address}):
        found = asyncio.run(schedule())
    assert found == [(schemas.states.StateType.SCHEDULED, True)] * 3
