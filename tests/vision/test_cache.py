"""Small records of photographs, kept between runs: found again, or worked out again, never an error of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from drgate.vision.cache import Records

CONTENTS = [f"{number:064x}" for number in range(2000)]
VALUES = {content: [number / 7, {"camera": "é"}] for number, content in enumerate(CONTENTS)}


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def records(tmp_path: Path, told: list[str]) -> Records:
    return Records(tmp_path / "cache", {"version": 1}, told.append)


class TestRecords:
    def test_are_found_again_by_content_and_version(self, records: Records, tmp_path: Path, told: list[str]):
        """Exactly as they were, by another process too; of what decides them, all must be the same."""
        records.write(VALUES)
        assert Records(tmp_path / "cache", {"version": 1}).read([*CONTENTS, "f" * 64]) == VALUES
        assert Records(tmp_path / "cache", {"version": 2}).read(CONTENTS) == {}
        assert told == []

    def test_are_for_their_owner_alone(self, records: Records, tmp_path: Path):
        """They tell of photographs of patients."""
        records.write(VALUES)
        assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "cache" / "records.sqlite").stat().st_mode & 0o777 == 0o600

    def test_the_oldest_go(self, records: Records, monkeypatch: pytest.MonkeyPatch):
        """The file does not grow without end."""
        monkeypatch.setattr("drgate.vision.cache.MOST_RECORDS", 100)
        for start in range(0, 500, 50):
            records.write(dict.fromkeys(CONTENTS[start : start + 50], 1))
        assert list(records.read(CONTENTS)) == CONTENTS[400:500]

    @pytest.mark.parametrize("what", ["a record", "cut off", "text", "first bytes"])
    def test_damage_is_noticed(self, records: Records, what: str, tmp_path: Path, told: list[str]):
        """One sentence; nothing wrong is given out; the next run finds a sound file."""
        records.write(VALUES)
        content = (file := tmp_path / "cache" / "records.sqlite").read_bytes()
        at = content.index(b'{"camera')
        changed = {
            "a record": content[:at] + b'{"Camera' + content[at + 8 :],
            "cut off": content[: len(content) // 2],
            "text": b"no database at all, but text\n" * 100,
            "first bytes": bytes(100) + content[100:],
        }[what]
        file.write_bytes(changed)
        found = records.read(CONTENTS)
        assert found.items() <= VALUES.items()
        assert len(found) < len(VALUES)
        assert told == [f"{file} in the image cache is damaged; it is removed and filled again."]
        records.write(VALUES)
        assert records.read(CONTENTS) == VALUES
        assert len(told) == 1

    def test_without_a_folder_there_are_none(self, tmp_path: Path, told: list[str]):
        """A file lies where the folder should be: nothing is kept, and the run goes on with one sentence."""
        (tmp_path / "taken").write_text("")
        records = Records(tmp_path / "taken" / "cache", 1, told.append)
        records.write(VALUES)
        assert records.read(CONTENTS) == {}
        assert told == [f"The image cache {tmp_path / 'taken' / 'cache'} cannot be used (Not a directory)."]

    def test_processes_write_at_once(self, tmp_path: Path):
        """What each of them wrote is found."""
        code = (
            "import sys; from pathlib import Path; from drgate.vision.cache import Records\n"
            "input()\n"
            "for i in range(40): Records(Path(sys.argv[1]), 1, print).write({f'{sys.argv[2]}-{i}': i})\n"
        )
        running = [
            subprocess.Popen(
                [sys.executable, "-c", code, tmp_path, str(number)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(3)
        ]
        assert [process.communicate("\n", timeout=60)[0] for process in running] == [""] * 3
        expected = {f"{number}-{i}": i for number in range(3) for i in range(40)}
        assert Records(tmp_path, 1).read(list(expected)) == expected
