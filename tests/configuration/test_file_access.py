"""The service makes its SQLite files private at start, and logs those that it cannot change."""

import logging
import os
import shutil
import stat
from pathlib import Path

import pytest

from app.database.engine import create_engine, restrict_file_access
from app.settings import Settings
from tests.support.apps import started_client
from tests.support.settings import Clock, make_settings
from tests.support.users import ARTHUR, LANCELOT, log_in, register


@pytest.fixture
def path(sqlite_template: Path, tmp_path: Path) -> Path:
    """A database file that only its owner can read, as the service creates it."""
    path = tmp_path / "hourpass.db"
    shutil.copy(sqlite_template, path)
    path.chmod(0o600)
    return path


@pytest.fixture
def settings(path: Path) -> Settings:
    return make_settings(
        f"sqlite:///{path}",
        first_admin_username=ARTHUR["username"],
        first_admin_password=ARTHUR["password"],
    )


def set_mode(path: Path, mode: int) -> None:
    path.chmod(mode)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and "access" in record.getMessage()
    ]


async def test_a_file_that_others_can_read_is_made_private_and_logged_once(
    path: Path, settings: Settings, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    set_mode(path, 0o644)
    async with started_client(settings, clock) as client:
        assert mode_of(path) == 0o600
        # What SQLite makes beside the file has the file's own permissions.
        await register(client, LANCELOT)
        beside = [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm")]
        assert {mode_of(each) & 0o077 for each in beside} == {0}
    (warning,) = warnings_in(caplog)
    assert str(path) in warning
    caplog.clear()
    async with started_client(settings, clock):
        pass
    assert warnings_in(caplog) == []


async def test_every_mode_with_access_for_others_is_made_private(
    path: Path, settings: Settings, caplog: pytest.LogCaptureFixture, subtests: pytest.Subtests
) -> None:
    engine = create_engine(settings)
    for mode in (0o640, 0o660, 0o604, 0o666, 0o777, 0o4755):
        with subtests.test(oct(mode)):
            set_mode(path, mode)
            caplog.clear()
            for _ in range(2):
                restrict_file_access(engine)
            assert mode_of(path) == mode & 0o700
            (warning,) = warnings_in(caplog)
            assert str(path) in warning
    await engine.dispose()


async def test_the_files_beside_the_database_are_private_while_another_process_uses_them(
    path: Path, settings: Settings, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with started_client(settings, clock) as client:
        await register(client, LANCELOT)
        beside = [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm")]
        for each in beside:
            each.chmod(0o644)
        async with started_client(settings, clock) as another:
            assert {mode_of(each) for each in beside} == {0o600}
            await log_in(another, LANCELOT)
        await log_in(client, ARTHUR)
    assert len(warnings_in(caplog)) == 2


async def test_a_file_that_only_its_owner_reads_is_left_alone(
    path: Path, settings: Settings, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for mode in (0o600, 0o700):
        set_mode(path, mode)
        async with started_client(settings, clock):
            pass
        assert mode_of(path) == mode
    assert warnings_in(caplog) == []


async def test_a_symbolic_link_is_followed_and_kept(
    path: Path, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    set_mode(path, 0o644)
    link = tmp_path / "link.db"
    link.symlink_to(path)
    async with started_client(make_settings(f"sqlite:///{link}"), clock):
        pass
    assert link.is_symlink()
    assert mode_of(path) == 0o600
    (warning,) = warnings_in(caplog)
    assert str(path) in warning


async def test_files_of_other_owners_are_named_and_not_changed(
    path: Path,
    settings: Settings,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_mode(path, 0o666)
    somebody_else = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: somebody_else)
    async with started_client(settings, clock):
        pass
    assert mode_of(path) == 0o666
    (warning,) = warnings_in(caplog)
    assert str(path) in warning
    assert "chmod 600" in warning


@pytest.mark.parametrize("does", [OSError, None], ids=["refuses", "pretends"])
async def test_a_file_whose_mode_cannot_be_changed_is_named(
    path: Path,
    settings: Settings,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    does: type[OSError] | None,
) -> None:
    """As on a file system that is read-only, or has no permissions."""
    set_mode(path, 0o644)

    def chmod(_: Path, __: int) -> None:
        if does:
            raise does

    monkeypatch.setattr(Path, "chmod", chmod)
    async with started_client(settings, clock):
        pass
    assert mode_of(path) == 0o644
    assert "chmod 600" in warnings_in(caplog)[0]


async def test_a_link_beside_the_file_is_not_followed(
    path: Path, tmp_path: Path, settings: Settings
) -> None:
    other = tmp_path / "other"
    other.touch(0o644)
    path.with_name(f"{path.name}-journal").symlink_to(other)
    engine = create_engine(settings)
    restrict_file_access(engine)
    await engine.dispose()
    assert mode_of(other) == 0o644


async def test_a_new_file_is_private_from_the_start(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    new = tmp_path / "new.db"
    before = os.umask(0)
    try:
        async with started_client(make_settings(f"sqlite:///{new}"), clock):
            assert mode_of(new) == 0o600
    finally:
        os.umask(before)
    assert warnings_in(caplog) == []
