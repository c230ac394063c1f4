"""The chain of looks: the same pair keeps its place, a broken chain counts nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drgate.errors import UsageError
from drgate.looks import Look, take_look


def look(path: Path, test_set: str = "set", model: str = "model") -> Look:
    return take_look(path, test_set=test_set, model=model, predictions="p", spec="s", allowed=2)


def test_the_same_pair_keeps_its_number_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Repeating an evaluation is no further look, and its age cannot be renewed."""
    chain = tmp_path / "deep" / "looks.jsonl"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first = look(chain)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    assert look(chain) == first == Look(1, 2, "2023-11-14T22:13:20Z")
    assert look(chain, model="other").number == 2
    assert look(chain, test_set="elsewhere").number == 1
    assert look(chain) == first
    assert len(chain.read_text().splitlines()) == 3
    assert not list(chain.parent.glob("*.lock"))


@pytest.mark.parametrize("defect", ["a line removed", "a line changed", "not JSON", "another object"])
def test_a_broken_chain_is_refused(defect: str, tmp_path: Path):
    """Looks are evidence: a chain that was edited is not counted from."""
    chain = tmp_path / "looks.jsonl"
    for model in "abc":
        look(chain, model=model)
    lines = chain.read_text().splitlines()
    match defect:
        case "a line removed":
            del lines[0]
        case "a line changed":
            lines[1] = json.dumps({**json.loads(lines[1]), "model": "z"}, sort_keys=True, separators=(",", ":"))
        case "not JSON":
            lines[1] = "{"
        case "another object":
            lines[0] = "[]"
    chain.write_text("\n".join(lines) + "\n")
    with pytest.raises(UsageError, match="chain of looks is broken"):
        look(chain, model="d")


def test_an_abandoned_lock_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A writer that died leaves its lock; the message says which file to remove."""
    import drgate.looks

    (tmp_path / "looks.jsonl.lock").touch()
    monkeypatch.setattr(drgate.looks, "PATIENCE", 0.2)
    with pytest.raises(UsageError, match="remove it"):
        look(tmp_path / "looks.jsonl")


def test_the_number_declared_first_holds(tmp_path: Path):
    """Raising the number of looks after the first one buys none."""
    chain = tmp_path / "looks.jsonl"
    parts = {"test_set": "set", "predictions": "p", "spec": "s"}
    assert take_look(chain, **parts, model="a", allowed=1) == Look(
        1, 1, take_look(chain, **parts, model="a", allowed=9).time
    )
    second = take_look(chain, **parts, model="b", allowed=9)
    assert (second.number, second.allowed) == (2, 1)
