"""The patient key on the command line: made once, read in one form, and asked for by whoever needs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drgate.patients import load_patient_key

Run = Callable[..., Any]


def test_keygen_writes_one_file(drgate: Run, tmp_path: Path):
    """Readable by its owner alone, never overwritten; the key id is all that is printed of it."""
    made = drgate("keygen", "--patients", "--out", tmp_path / "keys" / "patients", "--format", "json")
    path = tmp_path / "keys" / "patients.key"
    assert json.loads(made.out) == {"patient_key": str(path), "keyid": load_patient_key(path).id}
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().split()[-1] not in made.out + made.err
    assert "exists already" in drgate("keygen", "--patients", "--out", tmp_path / "keys" / "patients").err
    assert [file.name for file in path.parent.iterdir()] == ["patients.key"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--out", "patients.key"), "has a suffix"),
        (("--out", "patients", "--no-passphrase"), "a patient key has no passphrase"),
    ],
)
def test_keygen_refuses(words: tuple[str, ...], says: str, refused: Callable[..., str]):
    assert says in refused("keygen", "--patients", *words)


@pytest.mark.parametrize("command", ["evaluate", "compare", "tune"])
def test_a_key_that_is_none_is_refused_before_anything(
    command: str, write_csv: Run, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    """Also one from the environment; the file's content is not shown."""
    table = write_csv(
        [{"image": f"{i}", "grade": i, "p_0": 0.2, "p_1": 0.2, "p_2": 0.2, "p_3": 0.2, "p_4": 0.2} for i in range(5)]
    )
    (tmp_path / "patients.key").write_text("the secret of somebody else\n")
    monkeypatch.setenv("DRGATE_PATIENT_KEY", str(tmp_path / "patients.key"))
    more = {"evaluate": (), "compare": (table,), "tune": ("--out", "point.json")}[command]
    said = refused(command, table, *more)
    assert "is not a patient key" in said
    assert "secret" not in said
