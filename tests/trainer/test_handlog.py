"""Hand-kept logs: what is read out of them, what is not, and the log that this project was given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drgate import limits
from drgate.errors import RecordError
from tests.support.material import REAL_DATA
from trainer.attempts.handlog import HandLog, _Parser, read_log, repaired
from trainer.attempts.ledger import Attempt, Evaluated, Spend

LOG = """\
# Our runs

## Baseline (March 2nd, 2024)
Validation accuracy: **70.5%**, on the old split
```
--learning_rate 1e-4
--batch_size 8
```

## Attempt 3: cosine (May 7th, 2024)
**Status**: 🟡 in progress
```bash
# what was run
python -m trainer --learning_rate 3e-05 --batch_size=16 \\
    --scheduler cosine --warmup-epochs 2   # shorter
```
- Epoch 1: Training 50.25%, Validation **61.5%**
- Epoch 2: train loss 0.81, val acc 0.64 (32/50) ↑
- By epoch 9 we hope for 80%
- **Cost**: ~$12.50

## What we think
- Epoch 7: Validation 99%  (in no attempt)

### Attempt 4b
- Decision: stopped at epoch 3, going nowhere
- `--learning_rate 1e-3`
- `--patience 7`

| Epoch | Training (%) | Validation (%) | Loss |
|-------|--------------|----------------|------|
| 1     | 40           | 41.5           | 1.2  |
| 3     | 42           | **41.0**       | 1.1  |

Spent: $3 to 5

### Attempt 3 - in the end (FAILED)
- Status: FAILED - flat
- Final validation: 63% (epoch 5)
"""


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str | bytes], HandLog]:
    def log(text: str | bytes) -> HandLog:
        file = tmp_path / "log.md"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_log(file)

    return log


def one(log: HandLog) -> Attempt:
    (attempt,) = log.attempts
    return attempt


@pytest.fixture
def attempts(read) -> dict[str, Attempt]:
    return {attempt.name: attempt for attempt in read(LOG).attempts}


class TestAttempts:
    def test_are_headings_in_the_order_of_the_log(self, attempts):
        """Whatever their numbers; a second heading of a number goes on with the first."""
        assert list(attempts) == ["baseline", "attempt-3", "attempt-4b"]

    def test_sections_of_no_attempt_are_passed_over(self, attempts):
        """A heading of the same depth ends an attempt."""
        assert [entry.epoch for entry in attempts["attempt-3"].history] == [1, 2, 5]

    def test_where_it_stands_is_kept(self, attempts):
        """File, digest, heading and lines, so that a reader finds the place."""
        origin = attempts["attempt-4b"].origin
        assert origin is not None
        assert (origin.file, origin.section, origin.lines[0]) == ("log.md", "Attempt 4b", 25)

    def test_what_is_only_planned_is_no_attempt(self, read):
        """An entry without a result that says it is yet to come; the reader is told."""
        log = read("### Attempt 1\n- Epoch 1: Validation 50%\n### Attempt 2 (planned)\n```\n--patience 9\n```\n")
        assert one(log).name == "attempt-1"
        assert any("planned" in note for note in log.notes)

    def test_a_log_without_any_is_refused(self, read):
        """With the headings that are understood."""
        with pytest.raises(RecordError, match=r"log\.md has no attempt. Expected headings such as"):
            read("# Notes\nNothing tried yet.\n")

    @pytest.mark.parametrize("content", [b"\x00\x01PK", None])
    def test_no_text_is_refused(self, tmp_path, content):
        """A binary file, and one that is not there."""
        file = tmp_path / "log.md"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(RecordError, match="Markdown"):
            read_log(file)

    def test_windows_text_is_read(self, read):
        """A log that is no UTF-8 at all."""
        log = read("### Attempt 1 - naïve\nEpoch 1: Validation 50%\n".encode("cp1252"))
        assert one(log).origin.section == "Attempt 1 - naïve"

    def test_an_open_fence_swallows_no_attempt(self, read):
        """Whoever forgets to close a block loses none of what follows."""
        log = read("### Attempt 1\n```bash\n--patience 3\n\n### Attempt 2\n```\n--patience 4\n```\n")
        assert [attempt.parameters for attempt in log.attempts] == [{"patience": 3}, {"patience": 4}]


class TestParameters:
    def test_flags_of_a_command(self, attempts):
        """Continued lines, = and -, comments; numbers are numbers."""
        assert attempts["attempt-3"].parameters == {
            "learning_rate": 3e-05,
            "batch_size": 16,
            "scheduler": "cosine",
            "warmup_epochs": 2,
        }

    def test_flags_in_a_list(self, attempts):
        """Outside of a block, with or without code marks."""
        assert attempts["attempt-4b"].parameters == {"learning_rate": 0.001, "patience": 7}

    def test_yaml(self, read):
        """`name: value` in a block that holds nothing else."""
        log = read("### Run #1\n```yaml\nlearning_rate: 1e-3  # high\nuse_lora: yes\ndataset: 'eyes'\n```\n")
        assert one(log).parameters == {"learning_rate": 0.001, "use_lora": "yes", "dataset": "eyes"}

    def test_rank_and_alpha_in_the_comment_of_use_lora(self, read):
        """What people write there is told; a flag of that name counts more, and no other comment is read."""
        log = read("### Run #1\n```\n--lora_r 8\n--use_lora yes # r=16, alpha=32\n--patience 15  # was r=40\n```\n")
        assert one(log).parameters == {"lora_r": 8, "use_lora": "yes", "lora_alpha": 32, "patience": 15}

    def test_commands_that_train_nothing_are_passed_over(self, read):
        """An upload beside it, a launcher's own flags, a variable that the log does not show, pasted output."""
        log = read(
            "### Run #1\n```bash\ngcloud storage cp --project mine a b\n"
            "torchrun --nproc_per_node 2 train.py --patience 3 --learning_rate $LR\n```\n"
            "```\nEpoch 1: Training 50%, Validation 60%\nloss: 0.7\n```\n"
        )
        assert one(log).parameters == {"patience": 3}
        assert one(log).history == (Evaluated(1, 0.6, train_accuracy=0.5),)

    def test_two_values_of_one_parameter_are_said(self, read):
        """The later counts."""
        log = read("### Run #1\n```\n--patience 3\n```\nthen\n```\n--patience 5\n```\n")
        assert one(log).parameters == {"patience": 5}
        assert any("states patience twice, 3 and 5" in note for note in log.notes)

    def test_several_decisions(self, read):
        """A parameter that is given several times has all its values."""
        flags = "--decide 'epoch 5: val_accuracy > 0.5' --decide 'epoch 9: val_accuracy > 0.6'"
        log = read(f"### Run #1\n```\n{flags}\n```\n")
        assert one(log).parameters == {"decide": ["epoch 5: val_accuracy > 0.5", "epoch 9: val_accuracy > 0.6"]}


class TestResults:
    def test_epochs(self, attempts):
        """In percent or as a fraction, with counts where these agree, with or without emphasis."""
        assert attempts["attempt-3"].history == (
            Evaluated(1, 0.615, train_accuracy=0.5025),
            Evaluated(2, 0.64, n_val=50, train_loss=0.81),
            Evaluated(5, 0.63),
        )

    def test_a_table_of_epochs(self, attempts):
        """Columns are found by their names."""
        assert attempts["attempt-4b"].history == (
            Evaluated(1, 0.415, train_accuracy=0.40),
            Evaluated(3, 0.41, train_accuracy=0.42),
        )

    def test_a_result_without_an_epoch(self, attempts):
        """Is the best of an attempt that tells nothing else."""
        assert attempts["baseline"].best == Evaluated(None, 0.705)
        assert attempts["baseline"].baseline

    @pytest.mark.parametrize(
        "line",
        [
            "- Epoch 20: target validation > 82%",
            "- Epoch 20: expected validation 84%",
            "- Epochs 18-20: Validation 84% or we stop",
            "- Epoch 18-20: Validation 84%",
            "- Target: Validation 90% by epoch 30",
            "**Expected results**:\n- Epoch 30: Validation 91%\n- Validation accuracy: 91%",
            "#### Plan\n- Epoch 30: Validation 91%",
            "**Differences from the best run**:\n- Epoch 30: Validation 91%\n- Validation: 91%",
        ],
    )
    def test_what_is_hoped_for_is_no_result(self, read, line):
        """Neither by its words nor by the label it stands under."""
        attempt = one(read(f"### Attempt 1\n{line}\n\n**Results**:\n- Epoch 1: Training 40%, Validation 50%\n"))
        assert attempt.history == (Evaluated(1, 0.5, train_accuracy=0.4),)
        assert attempt.best == attempt.history[0]

    def test_a_target_that_was_missed_leaves_the_result(self, read):
        """Words after the figure do not make it a plan."""
        attempt = one(read("### Attempt 1\n- Epoch 1: Validation 50% - below the target of 60%\n"))
        assert attempt.history == (Evaluated(1, 0.5),)

    def test_two_accuracies_of_one_epoch_are_said(self, read):
        """The first counts."""
        log = read("### Attempt 1\n- Epoch 1: Validation 50%\n- Epoch 1: Validation 55%\n")
        assert one(log).history == (Evaluated(1, 0.5),)
        assert any("states two accuracies for epoch 1" in note for note in log.notes)


class TestOutcome:
    @pytest.mark.parametrize(
        ("line", "status"),
        [
            ("**Status**: 🏃 RUNNING (since noon)", "running"),
            ("Status: ❌ FAILED - flat", "failed"),
            ("- **Status:** Completed", "finished"),
            ("Decision: ✅ COMPLETED - Stopped at epoch 24 as it fell.", "stopped"),
            ("- Status: killed by the queue", "killed"),
            ("- Status: Similar to the failed attempt before", "imported"),
            ("- Nothing about it", "imported"),
        ],
    )
    def test_is_what_the_line_begins_with(self, read, line, status):
        """A word further on is about something else."""
        assert one(read(f"### Attempt 1\n{line}\n```\n--patience 3\n```\n")).status == status

    def test_the_last_word_counts(self, attempts):
        """A log is written from top to bottom; the reason is in its own words."""
        assert (attempts["attempt-3"].status, attempts["attempt-3"].reason) == ("failed", "FAILED - flat")
        assert (attempts["attempt-4b"].status, attempts["attempt-4b"].reason) == (
            "stopped",
            "stopped at epoch 3, going nowhere",
        )

    def test_dates(self, attempts, read):
        """As ISO 8601; one without a year takes the only year that the log names."""
        assert attempts["attempt-3"].started == "2024-05-07"
        log = read("Log of 3 May 2024\n### Attempt 1\n- **Started**: ok (Jun 8, 08:14 UTC)\nEpoch 1: Validation 5%\n")
        assert one(log).started == "2024-06-08T08:14Z"
        assert one(read("### Attempt 1\n- Started: Jun 8\nEpoch 1: Validation 5%\n")).started is None


class TestMoney:
    @pytest.mark.parametrize(
        ("text", "spend"),
        [
            ("Cost: ~$70-90 (learning)", Spend(70, 90, True)),
            ("**Spent**: $12.50", Spend(12.5, 12.5)),
            ("- Cost: 1,200 USD", Spend(1200, 1200)),
            ("- Cost: ~$200+", Spend(200, None, True)),
            ("- Cost: $1.5k", Spend(1500, 1500)),
            ("- Cost: 40 hours", None),
            ("- Cost: ~$60-80 additional", None),
            ("- Expected cost: $50", None),
            ("- Cost: < $100", None),
            ("**Expected**:\n- Cost: $50", None),
        ],
    )
    def test_a_spend_is_what_was_paid(self, read, text, spend):
        """A plan, a limit and a sum that is still to come are none."""
        assert one(read(f"### Attempt 1\nEpoch 1: Validation 50%\n{text}\n")).spend == spend

    def test_a_plan_is_kept_as_one(self, read):
        """And said to be one."""
        log = read("### Attempt 1\nEpoch 1: Validation 50%\n- Cost: ~$60-80 additional\n")
        assert one(log).planned == Spend(60, 80, True)
        assert any("expected cost (~$60-80)" in note for note in log.notes)

    def test_an_amount_in_another_currency_is_said(self, read):
        """It is never counted as dollars."""
        log = read("### Attempt 1\nEpoch 1: Validation 50%\n- Cost: 50 EUR\n")
        assert one(log).spend is None
        assert any("not an amount in USD" in note for note in log.notes)

    def test_the_whole_project(self, read):
        """A section on money belongs to all attempts; what came before them is the baseline's."""
        money = "- **Previous**: ~$20+\n- **Total so far**: ~$25-27\n"
        log = read(f"## Best result\nValidation: 70%\n## Investment\n{money}")
        assert log.attempts[0].origin.investment == {
            "previous": Spend(20, None, True),
            "total so far": Spend(25, 27, True),
        }
        assert one(log).spend == Spend(20, None, True)


class TestBrokenText:
    @pytest.mark.parametrize("text", ["naïve café → 90 % ≥ ✅ Ω", "âge, Ünal, “quoted”", "plain"])
    def test_sound_text_stays(self, text):
        """Accents, arrows and emoji that are what they seem."""
        assert repaired(text) == (text, 0, 0)

    @pytest.mark.parametrize("text", ["é", "→", "✅", "≥ 90", "🟡 yes", "α=4", "ü→ü"])
    def test_utf8_read_as_windows_1252_is_put_right(self, text):
        """By the way back, where no byte went missing."""
        assert repaired(text.encode().decode("cp1252"))[0] == text

    def test_a_missing_byte_is_put_back_where_one_emoji_fits(self):
        """Windows-1252 has no character for 0x9D."""
        assert repaired("❌".encode().replace(b"\x9d", b"").decode("cp1252")) == ("❌", 1, 0)

    def test_what_cannot_be_told_is_marked(self):
        """Three emoji fit these bytes: none is guessed."""
        broken = "🏆".encode().replace(b"\x8f", b"").decode("cp1252")
        assert repaired(f"x{broken}") == ("x\N{REPLACEMENT CHARACTER}", 0, 1)


@pytest.fixture
def reference() -> Path:
    file = REAL_DATA.parent / "reference" / "training-attempts-log.md"
    if not file.is_file():
        pytest.skip("the log that the project was given (../shared/reference) is not on this machine")
    return file


COMMON = {
    "learning_rate": 2e-5,
    "batch_size": 6,
    "use_lora": "yes",
    "lora_r": 16,
    "lora_alpha": 32,
    "dropout": 0.4,
    "focal_loss_alpha": 4,
    "focal_loss_gamma": 6,
    "class_weight_severe": 8,
    "class_weight_pdr": 6,
    "gradient_accumulation_steps": 4,
    "warmup_epochs": 30,
    "scheduler": "none",
    "weight_decay": 1e-5,
    "resume_from_checkpoint": "gs://dr-data-2/checkpoints/best_model.pth",
}
"""What all of the given log's attempts share."""


class TestTheLogThatWasGiven:
    """Facts of it, as a person reads them."""

    def test_the_baseline(self, reference):
        """81.76 %, training 77.7 %, and what had been paid before."""
        baseline = read_log(reference).attempts[0]
        assert baseline.baseline
        assert baseline.best == Evaluated(None, 0.8176, train_accuracy=0.777)
        assert baseline.parameters == COMMON | {"patience": 40, "dataset": "dataset3_augmented_resized"}
        assert (baseline.ended, baseline.spend) == ("2025-09-05", Spend(200, None, True))

    def test_the_first_attempt(self, reference):
        """Four epochs, failed at 24, 70 to 90 dollars."""
        attempt = read_log(reference).attempts[1]
        assert attempt.parameters == COMMON | {"patience": 15, "num_epochs": 60}
        assert [(e.epoch, e.train_accuracy, e.val_accuracy) for e in attempt.history] == [
            (17, 0.756, 0.782),
            (21, 0.764, 0.792),
            (22, 0.767, 0.795),
            (24, 0.769, 0.794),
        ]
        assert (attempt.status, attempt.spend) == ("failed", Spend(70, 90, True))
        assert "Stopped at epoch 24" in attempt.reason
        assert "FAILED" in attempt.reason

    def test_the_second_attempt(self, reference):
        """It runs, as far as the log knows; its 60 to 80 dollars are a plan. Rank and alpha stand in a comment."""
        attempt = read_log(reference).attempts[2]
        assert attempt.parameters == COMMON | {"patience": 40, "num_epochs": 80}
        assert attempt.history == (Evaluated(17, 0.782, train_accuracy=0.751),)
        assert (attempt.status, attempt.started) == ("running", "2025-09-08T08:14Z")
        assert (attempt.spend, attempt.planned) == (None, Spend(60, 80, True))

    def test_the_money_of_all(self, reference):
        """250 to 270 dollars so far."""
        assert read_log(reference).attempts[0].origin.investment["total so far"] == Spend(250, 270, True)

    def test_the_broken_text_is_mended(self, reference):
        """No sign of it is left, and the reader is told how much was lost."""
        log = read_log(reference)
        assert not any("â" in attempt.reason or "ð" in attempt.reason for attempt in log.attempts)
        assert "3 are lost" in log.notes[0]


class TestSize:
    def test_a_long_table_is_read_in_linear_time(self, read, monkeypatch: pytest.MonkeyPatch):
        """Each row is read once, with the header alone beside it."""
        seen: list[int] = []
        own = _Parser._row

        def counted(parser: _Parser, draft: Any, *rows: str) -> None:
            seen.append(sum(map(len, rows)))
            own(parser, draft, *rows)

        monkeypatch.setattr(_Parser, "_row", counted)
        rows = "".join(f"| {i:05d} | 50.5 |\n" for i in range(1, 4001))
        found = one(read(f"### Attempt 1\n| Epoch | Validation |\n|---|---|\n{rows}"))
        assert len(found.history) == len(seen) == 4000
        assert set(seen) == {len("| Epoch | Validation |") + len("| 00001 | 50.5 |")}

    @pytest.mark.parametrize(
        "line",
        [
            "- Epoch {}: Validation 70%",
            "- Epoch 1: Validation 70% ({}/{})",
            "- Epoch 1: Validation {}%",
            "- Best: epoch {}",
            "- Cost: ${}",
            "- Validation: 70% (epoch {})",
            "- PDR {}/{}",
            "`--patience {}`",
            "| Epoch | Validation |\n|---|---|\n| {} | 70 |",
        ],
    )
    def test_numbers_of_hundreds_of_digits(self, read, line: str):
        """They are no epoch and no cost, and no defect of the program."""
        text = "### Attempt 1\n- Epoch 1: Validation 60%\n" + line.replace("{}", "9" * 1000)
        attempt = one(read(text))
        (entry,) = attempt.history
        assert entry.epoch == 1
        assert str(attempt.spend or "") == ""

    def test_a_line_without_end_is_refused(self, read):
        """So is a command over so many lines; expressions take time with the square of a line."""
        for long in ("x" * 5000, "--a b \\\n" * 1000):
            with pytest.raises(RecordError, match="has more than 4000 characters; break it"):
                read(f"### Attempt 1\n- Epoch 1: Validation 60%\n{long}\n")

    def test_a_large_file_is_refused(self, read):
        with pytest.raises(RecordError, match="is larger than 4 MB; expected a log in Markdown"):
            read("x\n" * (limits.LOG_BYTES // 2 + 1))

    def test_long_runs_of_one_sign_are_shortened(self, read):
        """A ruler is a ruler."""
        log = read(f"### Attempt 1 {' ' * 3000}\n{'-' * 3000}\n- Reason: {'`' * 3000}\n- Epoch 1: Validation 60%\n")
        assert len(one(log).history) == 1
