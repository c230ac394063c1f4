"""The ledger: run folders read as attempts, a log written from them and read back, and the commands."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from drgate.cli.app import run as run_app
from drgate.errors import RecordError, UsageError
from drgate.record import read_record
from tests.support.material import REAL_DATA, Ended
from trainer.attempts import command as attempts_command
from trainer.attempts.circles import diff
from trainer.attempts.handlog import read_log, repaired
from trainer.attempts.ledger import (
    Attempt,
    Evaluated,
    Origin,
    Parent,
    Spend,
    baseline_of,
    best_of,
    in_order,
    read_attempt,
    read_ledger,
    spent,
    this_process,
)
from trainer.attempts.logbook import command, import_log, render

PARAMETERS: dict[str, Any] = {"dataset": "eyes", "learning_rate": 2e-05, "patience": 10, "num_epochs": 3, "decide": []}


def start(**fields: Any) -> dict[str, Any]:
    return {
        "event": "start",
        "time": "2026-01-02T03:04:05Z",
        "parameters": PARAMETERS,
        "spend": {"usd": None},
        **fields,
    }


def epoch(number: int, accuracy: float, **fields: Any) -> dict[str, Any]:
    return {
        "event": "epoch",
        "epoch": number,
        "val_accuracy": accuracy,
        "n_val": 50,
        "train_loss": 0.5,
        "usd": None,
    } | fields


def end(status: str = "finished", **fields: Any) -> dict[str, Any]:
    return {
        "event": "end",
        "status": status,
        "reason": "All ran.",
        "time": "2026-01-02T04:04:05Z",
        "usd": None,
    } | fields


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def write(runs: Path) -> Callable[..., Path]:
    """Write a record as a run would."""

    def record(*events: dict[str, Any], name: str = "first", tail: str = "") -> Path:
        folder = runs / name
        folder.mkdir()
        (folder / "record.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + tail)
        return folder

    return record


class TestReading:
    def test_a_finished_run(self, write):
        """Parameters, identities, history, the chosen epoch, cost and end."""
        severe = {"severe_npdr": {"k": 4, "n": 6, "value": 4 / 6}, "pdr": {"k": 0, "n": 0, "value": None}}
        attempt = read_attempt(
            write(
                start(
                    dataset_digest="sha256:d",
                    base={"id": "embedded", "digest": "sha256:b"},
                    again="to see the seed",
                    git_commit={"commit": "abc", "modified": True},
                    environment={"python": "3.11"},
                    parent={"how": "init_from", "source": "a.pth", "sha256": "f", "tensor_digest": "t", "epoch": 4},
                ),
                epoch(1, 0.5, sensitivity=severe, usd=0.1),
                {"event": "best", "epoch": 1, "tensor_digest": "x"},
                epoch(2, 0.6, usd=0.2),
                {"event": "spend", "seconds": 5, "usd": 0.25},
                end(usd=0.3),
            )
        )
        assert attempt.parameters == PARAMETERS | {"decide": None}
        assert attempt.best == attempt.history[0] == Evaluated(1, 0.5, 50, None, 0.5, (4, 6), (0, 0))
        assert (attempt.status, attempt.reason, attempt.spend) == ("finished", "All ran.", Spend(0.3, 0.3))
        assert (attempt.dataset, attempt.base, attempt.commit) == ("sha256:d", "sha256:b", "abc-modified")
        assert attempt.parent == Parent("init_from", "a.pth", ("f", "t"), 4)
        assert (attempt.started, attempt.ended) == ("2026-01-02T03:04:05Z", "2026-01-02T04:04:05Z")
        assert attempt.again == "to see the seed"

    def test_a_resume_replaces_what_came_after(self, write):
        """Epochs and choices after it are dropped, changed parameters hold from then on, money stays spent."""
        attempt = read_attempt(
            write(
                start(),
                epoch(1, 0.5, usd=1),
                epoch(2, 0.9, usd=2),
                {"event": "best", "epoch": 2, "tensor_digest": "x"},
                end("interrupted"),
                {"event": "resume", "epoch": 1, "changed": {"patience": [10, 20]}},
                epoch(2, 0.6, usd=1.5),
                end(),
            )
        )
        assert [(entry.epoch, entry.val_accuracy) for entry in attempt.history] == [(1, 0.5), (2, 0.6)]
        assert attempt.best.val_accuracy == 0.6
        assert attempt.parameters["patience"] == 20
        assert attempt.resumes == ({"epoch": 1, "changed": {"patience": [10, 20]}},)
        assert (attempt.status, attempt.spend) == ("finished", Spend(2, 2))

    def test_a_run_that_was_resumed_has_not_ended(self, write):
        """Its earlier end is past."""
        resumed = write(start(), end("interrupted"), {"event": "resume", "epoch": 0, "changed": {}})
        assert read_attempt(resumed).status == "killed"

    def test_running_and_killed(self, write):
        """A record without an end is of a process that lives, or of one that does not."""
        assert read_attempt(write(start(process=this_process()))).status == "running"
        script = "import json; from trainer.attempts.ledger import this_process; print(json.dumps(this_process()))"
        child = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        gone = json.loads(child.stdout)
        assert read_attempt(write(start(process=gone), name="b")).status == "killed"
        reused = gone | {"pid": os.getpid()}
        assert read_attempt(write(start(process=reused), name="c")).status == "killed"
        elsewhere = read_attempt(write(start(process=gone | {"host": "other"}), name="d"))
        assert (elsewhere.status, "Only other knows" in elsewhere.reason) == ("running", True)
        assert read_attempt(write(start(), name="e")).status == "killed"

    def test_a_line_that_a_crash_cut_off_is_left_out(self, write):
        """The whole ones before it count."""
        attempt = read_attempt(write(start(), epoch(1, 0.5), tail='{"event": "epoch", "ep'))
        assert attempt.reached == 1

    def test_epochs_without_evaluation(self, write):
        """They are part of the history and never the best."""
        attempt = read_attempt(write(start(), epoch(1, 0.5), {"event": "epoch", "epoch": 2, "train_loss": 0.4}))
        assert (attempt.reached, attempt.last, attempt.best) == (2, attempt.history[0], attempt.history[0])

    @pytest.mark.parametrize(
        ("events", "what"),
        [
            ([epoch(1, 0.5)], "line 1"),
            ([], "no complete line"),
            ([start(), epoch(1, 78.2)], "line 2.*val_accuracy is 78.2"),
            ([start(), epoch("1", 0.5)], "line 2.*an epoch is '1'"),
            ([start(), end("vanished")], "vanished"),
            ([{"event": "start"}], "line 1.*no 'parameters'"),
            ([[1]], "line 1"),
            ([start(), {"event": "best", "epoch": float("nan")}], "line 2 contains NaN"),
        ],
    )
    def test_a_broken_record_is_a_warning_with_its_place(self, runs, write, events, what):
        """The other attempts are read all the same."""
        write(*events, name="broken")
        write(start(), end(), name="whole")
        ledger = read_ledger(runs)
        assert [attempt.name for attempt in ledger.attempts] == ["whole"]
        (warning,) = ledger.warnings
        assert re.search(what, warning)
        assert str(runs / "broken") in warning

    def test_an_unreadable_record_is_a_warning(self, runs):
        """A folder in the file's place."""
        (runs / "odd" / "record.jsonl").mkdir(parents=True)
        assert "odd" in read_ledger(runs).warnings[0]

    def test_a_folder_that_is_not_there_holds_no_attempt(self, tmp_path):
        """The first run of all finds none before it."""
        assert read_ledger(tmp_path / "none").attempts == ()

    def test_order(self):
        """Oldest first; those of a log in its order, by its earliest date."""

        def told(line: int) -> Origin:
            return Origin("log.md", "", "", (line, line))

        attempts = [
            Attempt("b", started="2026-02-01T00:00:00Z"),
            Attempt("a", started="2026-01-01T00:00:00Z"),
            Attempt("attempt-2", origin=told(9)),
            Attempt("attempt-1", started="2025-12-24", origin=told(2)),
        ]
        assert [attempt.name for attempt in in_order(attempts)] == ["attempt-1", "attempt-2", "a", "b"]

    def test_a_name_that_is_nearly_right_is_offered(self, runs, write):
        """And a log's own words find an attempt."""
        write(start(), name="first")
        with pytest.raises(UsageError, match="Did you mean first"):
            read_ledger(runs).find("frist")

    def test_without_torch(self):
        """A view of records starts at once."""
        script = (
            "import sys; import trainer.attempts.command, trainer.attempts.logbook, trainer.attempts.circles; "
            "trainer.attempts.command.app(); sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


class TestMoney:
    def test_the_sum_has_an_end_only_where_all_have(self):
        """Whoever does not tell is named."""
        told = [Attempt("a", spend=Spend(70, 90, True)), Attempt("b", spend=Spend(1.5, 1.5)), Attempt("c")]
        assert spent(told) == (Spend(71.5, 91.5, True), ("c",))
        assert spent([*told, Attempt("d", spend=Spend(200, None))])[0] == Spend(271.5, None, True)

    @pytest.mark.parametrize(
        ("spend", "text"),
        [
            (Spend(70, 90, True), "~$70-90"),
            (Spend(200, None, True), "~$200+"),
            (Spend(0.41, 0.41), "$0.41"),
            (Spend(1.234567, 1.234567), "$1.234567"),
            (Spend(None, 300), "<$300"),
            (Spend(0, 0), "$0"),
        ],
    )
    def test_as_people_write_it(self, spend, text):
        """With all the digits that there are."""
        assert str(spend) == text


NAMES = st.from_regex(r"[a-z][a-z0-9_.\-]{0,12}", fullmatch=True).filter(
    lambda name: not re.match(r"attempt-\d|baseline", name)
)
WORDS = (
    st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=30)
    .map(lambda text: " ".join(text.split()))
    .filter(lambda text: repaired(text)[0] == text)  # what looks like broken text is put right when it is read
)
SHARES = st.floats(0, 1, allow_nan=False)
LOSSES = st.floats(0, 99).map(lambda loss: float(f"{loss:.4g}"))
PAIRS = st.tuples(st.integers(0, 9), st.integers(9, 12)) | st.none()
DATES = st.sampled_from(["2026-01-02T03:04:05Z", "2026-01-02", None])
DIGESTS = st.sampled_from(["sha256:aa", None])
VALUES = st.none() | st.integers(-9, 10**9) | st.floats(-1e9, 1e9, allow_nan=False) | WORDS.filter(bool)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Evaluated, ...]:
    epochs = sorted(draw(st.sets(st.integers(0, 200), max_size=4)))
    entries = []
    for number in epochs:
        n = draw(st.none() | st.integers(200, 999))
        accuracy = draw(SHARES) if n is None else draw(st.integers(0, n)) / n
        entries.append(
            Evaluated(
                number,
                accuracy,
                n,
                draw(st.none() | SHARES),
                draw(st.none() | LOSSES),
                draw(PAIRS),
                draw(PAIRS),
            )
        )
    return tuple(entries)


@st.composite
def attempts(draw: st.DrawFn) -> Attempt:
    from trainer.attempts.ledger import normal_form

    history = draw(histories())
    parameters = draw(
        st.dictionaries(st.from_regex(r"[a-z][a-z_]{0,9}", fullmatch=True), VALUES.map(normal_form), max_size=5)
    )
    status = draw(st.sampled_from(["running", "finished", "stopped", "interrupted", "failed", "killed", "imported"]))
    low = draw(st.none() | st.integers(0, 10**5).map(lambda cents: cents / 100))
    return Attempt(
        name=draw(NAMES),
        parameters=parameters,
        status=status,
        reason=draw(WORDS),
        history=history,
        best=draw(st.sampled_from(history)) if history else None,
        spend=None if low is None else Spend(low, draw(st.sampled_from([low, low + 1.5, None])), draw(st.booleans())),
        started=draw(DATES),
        ended=None if status == "running" else draw(DATES),
        dataset=draw(DIGESTS),
        base=draw(DIGESTS),
        parent=draw(
            st.none()
            | st.builds(
                Parent,
                st.just("init_from"),
                WORDS.filter(bool),
                st.sampled_from([(), ("a",), ("a", "b")]),
                st.none() | st.integers(0, 99),
                st.none() | NAMES,
            )
        ),
        commit=draw(st.sampled_from(["abc", "abc-modified", None])),
        again=draw(st.none() | WORDS.filter(bool)),
    )


class TestRenderedLog:
    @settings(max_examples=25)
    @given(st.lists(attempts(), min_size=1, max_size=2, unique_by=lambda attempt: attempt.name))
    def test_reads_back_as_the_same_attempts(self, tmp_path_factory, found):
        """Written as people keep it, whatever the names, the words and the figures are."""
        folder = tmp_path_factory.mktemp("round")
        text = render(found)
        (folder / "log.md").write_text(text)
        back = read_log(folder / "log.md").attempts
        assert [replace(attempt, origin=None) for attempt in back] == found, text
        taken = import_log(folder / "log.md", folder / "runs")
        on_disk = [read_attempt(folder / "runs" / attempt.name) for attempt in taken.written]
        assert [replace(attempt, origin=None, folder=None) for attempt in on_disk] == found

    def test_the_command_can_be_pasted(self):
        """A shell takes it apart into the values that were told."""
        told = {"dataset": "my eyes/it's", "decide": ["epoch 2: val_accuracy > 0.5", "epoch 3: x > 1"], "track": None}
        words = shlex.split(command(told).replace("\\\n", " "), comments=True)
        assert words == [
            "drtrain",
            "--dataset",
            "my eyes/it's",
            "--decide",
            told["decide"][0],
            "--decide",
            told["decide"][1],
        ]

    def test_text_of_a_record_stays_text(self):
        """No markup, link, mention, heading or table cell comes out of a name or a reason."""
        nasty = "</li><script>alert(1)</script> | [x](http://evil) @all **b** `c`\n# Attempt 9"
        attempt = Attempt("a|b", {"dataset": "x ``` y\n### Attempt 7"}, "failed", nasty, commit="`|<i>", again=nasty)
        html = MarkdownIt("commonmark").enable("table").render(render([attempt]))
        assert "<script" not in html
        assert "<a " not in html
        assert html.count("<h1>") == 1
        assert html.count("<h3>") == 1
        assert html.count("<pre>") == 1
        assert "<i>" not in html

    def test_tells_what_changed(self, write, runs):
        """Against the attempt before and the best, without places; then all of them against the baseline."""
        write(start(), epoch(1, 0.5), end(), name="a")
        write(
            start(time="2026-01-03", parameters=PARAMETERS | {"patience": 20, "output_dir": "x"}),
            epoch(1, 0.6),
            end(),
            name="b",
        )
        text = render(read_ledger(runs).attempts)
        assert "**Differences from a**:\n\n- `patience`: `20`, there `10`\n" in text
        assert "`output_dir`: " not in text
        assert "| **`b`** | finished | 1 | 60 % | epoch 1 | +10.0 points | unknown |" in text
        assert "Best: `b` with 60 %." in text


class TestDiff:
    def test_parameters_identities_and_epochs(self, write):
        """What both tell and say differently; what one of them does not tell stands apart."""
        a = read_attempt(write(start(dataset_digest="sha256:a"), epoch(1, 0.5), epoch(2, 0.5), name="a"))
        changed = {name: value for name, value in PARAMETERS.items() if name != "num_epochs"} | {
            "patience": 20,
            "seed": 1,
        }
        b = read_attempt(write(start(parameters=changed, dataset_digest="sha256:b"), epoch(2, 0.6), name="b"))
        found = diff(a, b)
        assert found.parameters == {"patience": (10, 20)}
        assert (found.only_a, found.only_b) == (("num_epochs",), ("seed",))
        assert found.identities == {"dataset digest": ("sha256:a", "sha256:b")}
        assert [(one.val_accuracy, other.val_accuracy) for one, other in found.epochs] == [(0.5, 0.6)]


LOG = (
    "## Best result\nValidation: 81%\n### Attempt 1\n```\n--patience 3\n```\n- Epoch 1: Validation 50%\n- Cost: ~$7-9\n"
)


class TestImport:
    @pytest.fixture
    def log(self, tmp_path: Path) -> Path:
        file = tmp_path / "log.md"
        file.write_text(LOG)
        return file

    def test_writes_a_record_for_each_attempt(self, log, runs):
        """With where it came from, and only what the log tells."""
        assert [attempt.name for attempt in import_log(log, runs).written] == ["baseline", "attempt-1"]
        first, *others = map(json.loads, (runs / "attempt-1" / "record.jsonl").read_text().splitlines())
        assert first["imported_from"]["section"] == "Attempt 1"
        assert (first["imported_from"]["lines"], first["parameters"]) == ([3, 8], {"patience": 3})
        assert "dataset_digest" not in first
        assert [event["event"] for event in others] == ["epoch", "best", "end"]
        ledger = read_ledger(runs)
        assert baseline_of(ledger.attempts) == best_of(ledger.attempts) == ledger.find("baseline")

    def test_what_drgate_reads(self, log, runs):
        """The record is one for `drgate` too; the unfavourable end of a range is its cost."""
        import_log(log, runs)
        assert read_record(runs / "attempt-1" / "record.jsonl")["spend"]["usd"] == 9
        assert read_record(runs / "baseline" / "record.jsonl")["spend"]["usd"] is None

    def test_again_is_recognised(self, log, runs):
        """Nothing is written twice; a log that grew brings what is new."""
        import_log(log, runs)
        before = (runs / "attempt-1" / "record.jsonl").read_bytes()
        assert import_log(log, runs).recognised == ("baseline", "attempt-1")
        log.write_text("A word before.\n" + LOG + "### Attempt 2\n- Epoch 1: Validation 60%\n")
        taken = import_log(log, runs)
        assert [attempt.name for attempt in taken.written] == ["attempt-2"]
        assert (runs / "attempt-1" / "record.jsonl").read_bytes() == before

    def test_another_word_on_the_same_attempt_is_refused(self, log, runs):
        """Nothing is overwritten and nothing is written; under another name it may stand beside."""
        import_log(log, runs)
        log.write_text(LOG.replace("50%", "55%") + "### Attempt 2\n- Epoch 1: Validation 60%\n")
        with pytest.raises(UsageError, match=r"attempt-1 already exists and differs from log\.md"):
            import_log(log, runs)
        assert not (runs / "attempt-2").exists()
        assert [attempt.title for attempt in import_log(log, runs, prefix="old-").written][1] == "old-attempt 1"

    def test_a_run_of_ones_own_is_not_overwritten(self, log, runs, write):
        """Whatever it says."""
        write(start(), name="attempt-1")
        with pytest.raises(UsageError, match="attempt-1 already exists"):
            import_log(log, runs)
        assert sorted(path.name for path in runs.iterdir()) == ["attempt-1"]

    def test_all_or_none(self, log, runs, monkeypatch):
        """A disk that fills up half-way leaves nothing behind."""
        rename = Path.rename

        def full(self: Path, target: Path) -> Path:
            if target.name == "attempt-1":
                raise OSError(28, "No space left on device", str(target))
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", full)
        with pytest.raises(OSError, match="No space"):
            import_log(log, runs)
        assert list(runs.iterdir()) == []

    @pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", "-rf", ""])
    def test_a_name_that_is_no_folder_is_refused(self, tmp_path, runs, name):
        """A log cannot write outside of the folder of runs."""
        (tmp_path / "log.md").write_text(f"### Attempt 1\n- **Name**: `{name}`\n- Epoch 1: Validation 50%\n")
        if name:
            with pytest.raises(UsageError, match="cannot be the name of a folder"):
                import_log(tmp_path / "log.md", runs)
        else:
            assert import_log(tmp_path / "log.md", runs).written[0].name == "attempt-1"

    def test_two_of_one_name_are_refused(self, tmp_path, runs):
        """Rather than one of them lost."""
        (tmp_path / "log.md").write_text(
            "".join(f"### Attempt {i}\n- **Name**: `x`\n- Epoch 1: Validation 50%\n" for i in (1, 2))
        )
        with pytest.raises(UsageError, match="two attempts named x"):
            import_log(tmp_path / "log.md", runs)


@pytest.fixture
def drtrain_attempts(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run `drtrain attempts` in this process."""

    def run(*arguments: object) -> Ended:
        with pytest.raises(SystemExit) as stop:
            run_app(attempts_command.app(), "drtrain attempts", [str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Ended(int(stop.value.code or 0), captured.out, captured.err)

    return run


class TestCommands:
    @pytest.fixture(autouse=True)
    def _two(self, write):
        write(start(), epoch(1, 0.5), epoch(2, 0.58), end("stopped"), name="a")
        write(start(time="2026-01-03", parameters=PARAMETERS | {"patience": 20}), epoch(1, 0.6, usd=0.5), name="b")

    def test_list(self, drtrain_attempts, runs):
        """A row an attempt; a broken record is told on standard error and does not end the listing."""
        (runs / "c").mkdir()
        (runs / "c" / "record.jsonl").write_text("{}\n")
        ended = drtrain_attempts("list", "--runs", runs)
        assert ended.code == 0
        assert re.search(r"a +stopped +58 % +2 +the baseline +unknown +1-2 +2026-01-02", ended.out)
        assert re.search(r"b +killed +60 % +1 +\+2\.0 points +\$0\.50 +1 +2026-01-03", ended.out)
        assert "Spent: at least $0.50 (unknown for a)." in ended.out
        assert "warning: " in ended.err
        assert "line 1" in ended.err

    def test_list_as_json(self, drtrain_attempts, runs):
        """Alone on standard output."""
        told = json.loads(drtrain_attempts("list", "--runs", runs, "--format", "json").out)
        assert [attempt["name"] for attempt in told["attempts"]] == ["a", "b"]
        assert (told["baseline"], told["best"]) == ("a", "b")
        assert told["spend"] == {"low": 0.5, "high": 0.5, "about": False, "not_told_by": ["a"]}

    def test_show(self, drtrain_attempts, runs):
        """How it ended, its command, its epochs."""
        out = drtrain_attempts("show", "a", "--runs", runs).out
        assert "a: stopped" in out
        assert "--learning_rate 2e-05" in out
        assert re.search(r"2 +0\.5000 +58 % +\+8\.0 points +#+ best", out)

    def test_diff(self, drtrain_attempts, runs):
        """Side by side."""
        out = drtrain_attempts("diff", "a", "b", "--runs", runs).out
        assert re.search(r"patience +10 +20", out)
        assert re.search(r"epoch 1 +50 % +60 % +\+10\.0 points", out)

    def test_render(self, drtrain_attempts, runs, tmp_path):
        """To standard output or a file, which is not overwritten unasked; a choice of attempts."""
        text = drtrain_attempts("render", "--runs", runs).out
        assert text.startswith("# Training attempts\n")
        assert "### Attempt #2 - b" in text
        out = tmp_path / "log.md"
        assert drtrain_attempts("render", "a", "--runs", runs, "--out", out).code == 0
        assert "Attempt #2" not in out.read_text()
        assert drtrain_attempts("render", "--runs", runs, "--out", out).code == 2
        assert drtrain_attempts("render", "--runs", runs, "--out", out, "--force").code == 0
        assert out.read_text() == text

    def test_import(self, drtrain_attempts, runs, tmp_path):
        """What is written is shown; the second time there is nothing new."""
        (tmp_path / "log.md").write_text(LOG)
        assert "2 attempts imported" in drtrain_attempts("import", tmp_path / "log.md", "--runs", runs).out
        again = drtrain_attempts("import", tmp_path / "log.md", "--runs", runs)
        assert (again.code, again.out) == (0, "Nothing new to import.\n")
        assert "Already imported" in again.err

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (("list", "--runs", "nowhere"), "There is no folder nowhere. Name the folder of attempts with --runs."),
            (("import", "nowhere.md"), "nowhere.md cannot be read (No such file or directory)"),
            (("shw", "a"), "Did you mean 'show'?"),
        ],
    )
    def test_bad_input_is_one_sentence(self, drtrain_attempts, arguments, sentence, tmp_path, monkeypatch):
        """Exit code 2, nothing on standard output, nothing written."""
        monkeypatch.chdir(tmp_path)
        ended = drtrain_attempts(*arguments)
        assert (ended.code, ended.out) == (2, "")
        assert sentence in ended.err
        assert ended.err.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["runs"]

    def test_a_name_that_is_not_there(self, drtrain_attempts, runs):
        """The names that are."""
        assert "Attempts: a, b." in drtrain_attempts("show", "zzz", "--runs", runs).err


def test_the_given_log_comes_back_from_its_rendering(tmp_path):
    """Import, render, import: the same attempts."""
    log = REAL_DATA.parent / "reference" / "training-attempts-log.md"
    if not log.is_file():
        pytest.skip("the log that the project was given (../shared/reference) is not on this machine")
    import_log(log, tmp_path / "one")
    first = read_ledger(tmp_path / "one").attempts
    (tmp_path / "rendered.md").write_text(render(first))
    import_log(tmp_path / "rendered.md", tmp_path / "two")
    second = read_ledger(tmp_path / "two").attempts
    assert [replace(x, origin=None, folder=None) for x in second] == [
        replace(x, origin=None, folder=None) for x in first
    ]


def test_a_record_that_vanishes_is_one_sentence(tmp_path):
    """Between the listing and the reading."""
    with pytest.raises(RecordError, match=r"record\.jsonl cannot be read"):
        read_attempt(tmp_path / "gone")


class TestSize:
    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            ('{"event": "epoch", "epoch": %s}' % ("9" * 5000), "line 2 is not valid JSON"),
            ('{"event": "epoch", "epoch": %s}' % ("9" * 400), "line 2 has a whole number of more than 64 bits"),
            ('{"event": "end", "status": "finished", "usd": 1e999}', "line 2 has a number that is too large"),
            ('{"event": "end", "status": "finished", "usd": "inf"}', "line 2: not a record that drtrain wrote"),
            ('{"event": "epoch", "epoch": ' + "[" * 100_000, "line 2 is not valid JSON"),
            ('{"event": "epoch", "epoch": 1, "note": ' + "[" * 200 + "]" * 200 + "}", "line 2 is nested more than 50"),
        ],
        ids=["5,000 digits", "400 digits", "1e999", "inf", "deep", "deeper than ours"],
    )
    def test_numbers_and_depth_have_limits(self, tmp_path, line, sentence):
        """One warning with its place, and the others are still read; no defect of the program."""
        start = '{"event": "start", "parameters": {}, "spend": {"usd": 0.5}}\n'
        for name, more in (("good", ""), ("hostile", line + "\n")):
            (tmp_path / name).mkdir()
            (tmp_path / name / "record.jsonl").write_text(start + more)
        ledger = read_ledger(tmp_path)
        assert [attempt.name for attempt in ledger.attempts] == ["good"]
        (warning,) = ledger.warnings
        assert sentence in warning
        assert len(warning) < 1000

    def test_a_record_of_ten_gigabytes(self, tmp_path):
        (tmp_path / "run").mkdir()
        with (tmp_path / "run" / "record.jsonl").open("wb") as handle:
            handle.write(b"\n" * 5000)  # text, or it is named as a binary file
            handle.truncate(10 << 30)
        (warning,) = read_ledger(tmp_path).warnings
        assert "is larger than 64 MB" in warning

    def test_many_attempts_are_imported_in_linear_time(self, tmp_path, monkeypatch):
        """Names are counted, not compared with each other."""
        log = tmp_path / "log.md"
        log.write_text("".join(f"### Attempt {i}\n- Epoch 1: Validation 60%\n" for i in range(300)))
        assert len(import_log(log, tmp_path / "runs").written) == 300
        log.write_text(log.read_text() + "### Attempt 9z\n- Name: `attempt-7`\n- Epoch 1: Validation 60%\n")
        with pytest.raises(UsageError, match="two attempts named attempt-7"):
            import_log(log, tmp_path / "others")

    def test_a_line_that_was_cut_off_is_found_from_the_end(self, tmp_path):
        """Before a line is added, only the end of the record is read."""
        record = pytest.importorskip("trainer.record", reason="the extra train is not installed")
        file = tmp_path / "record.jsonl"
        for content, whole in ((b"", 0), (b"cut", 0), (b"a\n", 2), (b"a\n" + b"x" * 200_000, 2), (b"a\nb\nc", 4)):
            file.write_bytes(content)
            assert record._whole_lines(file) == whole
