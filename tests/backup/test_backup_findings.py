"""`hourpass doctor` says when the database was last backed up."""

from datetime import timedelta

from fastapi import FastAPI

from app.database.engine import begin_write
from app.operations.doctor.backups import MAX_AGE, check_backups
from tests.support.apps import context_in


async def test_an_old_backup_or_none_is_a_warning(app: FastAPI) -> None:
    async with app.state.database.session() as session:
        context = context_in(session, app)
        finding = await check_backups(context)
        if session.get_bind().dialect.name == "sqlite":
            assert finding.state == "warning"
            assert "There was none yet. Run `hourpass backup FILE`" in finding.text
        else:
            assert finding.state == "ok"
            assert "another tool" in finding.text
        await begin_write(session)
        await app.state.services.events.publish(context, "service.backup", None)
        await session.commit()
        context.now += MAX_AGE
        finding = await check_backups(context)
        assert (finding.subject, finding.state) == ("backups", "ok")
        context.now += timedelta(seconds=1)
        finding = await check_backups(context)
        assert finding.state == "warning"
        assert "The last one was made at 2026-11-23" in finding.text
