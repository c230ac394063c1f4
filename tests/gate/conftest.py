"""Repositories that the tests of the gate change and judge."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.repositories import Repository, copy_of, make_repository


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return make_repository(tmp_path_factory.mktemp("template") / "repository")


@pytest.fixture(scope="session")
def demanding(template: Repository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Whose policy asks for the predictions."""
    made = copy_of(template, tmp_path_factory.mktemp("demanding") / "repository")
    made.replace("drgate.toml", "require_predictions = false", "require_predictions = true")
    made.merge()
    return made


@pytest.fixture
def repository(template: Repository, tmp_path: Path) -> Repository:
    """A repository whose main is guarded and whose branch `change` is checked out, unchanged."""
    return copy_of(template, tmp_path / "repository")
