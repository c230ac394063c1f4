"""The command line as a person meets it: light, one clear sentence for bad input, nothing half-written."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from drgate.certificate.statement import statement_bytes
from tests.support.evaluations import CONTENT, evaluation
from tests.support.material import Ended, photograph
from tests.support.tiny import checkpoint_of, random_model, tiny_base

Run = Callable[..., Ended]
Refused = Callable[..., str]
HEAVY = {"torch", "transformers", "peft", "onnx", "onnxruntime"}


def modules_after(*arguments: str) -> set[str]:
    """Which modules a fresh process holds after a command."""
    script = (
        "import sys, json\n"
        "from drgate.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "sys.stderr.write('\\n' + json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


class TestLight:
    def test_help_imports_nothing_heavy(self):
        """`drgate --help` answers at once: neither torch nor pandas nor numpy is imported for it."""
        assert not modules_after("--help") & (HEAVY | {"pandas", "numpy", "scipy", "sklearn", "plotly"})

    def test_a_table_is_evaluated_without_torch(self, write_csv: Callable[..., Path], tmp_path: Path):
        rows = [{"image": f"{i}.png", "grade": i % 5, "predicted": i % 5} for i in range(10)]
        table = write_csv(rows)
        loaded = modules_after("evaluate", str(table), "--out", str(tmp_path / "out"), "--looks", str(tmp_path / "l"))
        assert "drgate.evaluate" in loaded
        assert not loaded & HEAVY

    def test_a_certificate_is_verified_without_numpy(self, tmp_path: Path):
        """Signature, age, revocations and model files: what a gate asks of every merge."""
        (tmp_path / "statement.json").write_bytes(statement_bytes(evaluation()))
        loaded = modules_after("verify", str(tmp_path / "statement.json"), "--max-age-days", "1")
        assert "drgate.verify" in loaded
        assert not loaded & (HEAVY | {"pandas", "numpy", "scipy", "drgate.checklist"})


class TestReaderGone:
    @pytest.mark.parametrize("form", [["--as", "html"], ["--as", "markdown"], ["--format", "json"], []])
    def test_ends_as_shells_expect(self, form: list[str]):
        """`drgate report ... | true`: 141, whatever library notices first that nobody reads."""
        example = Path(__file__).parents[1] / "reports/example/evaluation.json"
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-m", "drgate", "report", str(example), *form]
        with os.fdopen(writing, "wb") as closed:
            done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 141
        assert not done.stderr


class TestHelp:
    @pytest.mark.parametrize(
        "command",
        [
            "demo",
            "evaluate",
            "score",
            "preprocess",
            "verify",
            "export",
            "predict",
            "gate",
            "waive",
            "history",
            "report",
            "keygen",
            "sign",
            "spec",
            "spec show",
        ],
    )
    def test_every_command_has_help_with_an_example(self, command: str, drgate: Run):
        ended = drgate(*command.split(), "--help")
        assert ended.code == 0
        assert f"drgate {command.split()[0]}" in ended.out or "Example" in ended.out

    def test_flags_with_underscores_are_the_same(self, drgate: Run, tmp_path: Path):
        assert drgate("keygen", "--out", tmp_path / "a", "--no_passphrase").code == 0

    def test_unknown_flag_offers_the_nearest(self, refused: Refused):
        assert "did you mean --data?" in refused("evaluate", "x.csv", "--dta", "y")

    def test_option_without_its_argument_names_the_command(self, refused: Refused):
        assert "See drgate evaluate --help." in refused("evaluate", "x.csv", "--grades")
        assert "See drgate spec show --help." in refused("spec", "show")

    def test_unknown_command(self, refused: Refused):
        assert "evalute" in refused("evalute")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound checkpoint of a tiny network."""
    from drgate.vision.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("model")
    base = tiny_base(folder / "base")
    save_checkpoint(folder / "model.pth", checkpoint_of(random_model(base), base))
    return folder / "model.pth"


class Exploit:
    """A pickle that runs code when it is loaded carelessly."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (str(self.proof),)


class TestBadInput:
    """Each ends with exit code 2 and one sentence, and leaves nothing behind (the fixture `refused` looks)."""

    def test_model_without_data(self, refused: Refused, checkpoint: Path):
        assert "--data" in refused("evaluate", checkpoint)

    def test_missing_file(self, refused: Refused, tmp_path: Path):
        assert "does not exist" in refused("evaluate", tmp_path / "none.csv")
        assert "does not exist" in refused("evaluate", tmp_path / "none.pth", "--data", tmp_path)

    def test_neither_model_nor_table(self, refused: Refused, tmp_path: Path):
        assert "notes.txt does not exist; expected a table" in refused("evaluate", tmp_path / "notes.txt")
        (tmp_path / "notes.txt").write_text("image quality was fine")
        assert "notes.txt has no rows; expected a table with image" in refused("evaluate", tmp_path / "notes.txt")

    def test_empty_manifest(self, refused: Refused, checkpoint: Path, tmp_path: Path):
        (tmp_path / "labels.csv").write_text("")
        assert "is empty" in refused("evaluate", checkpoint, "--data", tmp_path / "labels.csv")

    def test_folder_without_images(self, refused: Refused, checkpoint: Path, tmp_path: Path):
        (tmp_path / "nothing").mkdir()
        assert "has no images" in refused("evaluate", checkpoint, "--data", tmp_path / "nothing")

    @pytest.mark.parametrize("grade", ["7", "moderately bad", "-1", "1.5"])
    def test_grades_off_the_scale(
        self, grade: str, refused: Refused, checkpoint: Path, photographs: Callable[..., Path]
    ):
        folder = photographs("a.png")
        (folder / "labels.csv").write_text(f"image,grade\na.png,{grade}\n")
        assert re.search("line 2: (the )?grade ", refused("evaluate", checkpoint, "--data", folder))

    @pytest.mark.parametrize(
        ("row", "sentence"),
        [
            ("a.png,0,0.5,0.5,0.1,0,0", "the five do not sum to 1 within 0.001"),
            ("a.png,0,nan,0.5,0.5,0,0", "nan or inf"),
            ("b.png,0,1,0,0,0,0", "line 3: this image is in"),
            ("a.png,0,1,0,0,0,", "give all five or none"),
            ("a.png,,1,0,0,0,0", "1 of 2 images have no reference grade"),
        ],
    )
    def test_tables(self, row: str, sentence: str, refused: Refused, tmp_path: Path):
        table = tmp_path / "predictions.csv"
        table.write_text(f"image,grade,p_0,p_1,p_2,p_3,p_4\nb.png,1,1,0,0,0,0\n{row}\n")
        assert sentence in refused("evaluate", table)

    def test_truncated_checkpoint(
        self, refused: Refused, checkpoint: Path, tmp_path: Path, photographs: Callable[..., Path]
    ):
        broken = tmp_path / "checkpoint_truncated.pth"
        broken.write_bytes(checkpoint.read_bytes()[:-500])
        assert "checkpoint_truncated.pth" in refused("evaluate", broken, "--data", photographs("0/a.png"))

    def test_checkpoint_with_code(self, refused: Refused, tmp_path: Path, photographs: Callable[..., Path]):
        """A pickle with code in it is refused, and its code does not run."""
        for name, write in {
            "plain.pth": lambda path, thing: path.write_bytes(pickle.dumps(thing)),
            "zipped.pth": lambda path, thing: torch.save(thing, path),
        }.items():
            write(tmp_path / name, {"model": Exploit(tmp_path / "owned")})
            refused("evaluate", tmp_path / name, "--data", photographs("0/a.png"))
            assert not (tmp_path / "owned").exists()

    def test_checkpoint_with_four_classes(
        self, refused: Refused, checkpoint: Path, tmp_path: Path, photographs: Callable[..., Path]
    ):
        content = torch.load(checkpoint, weights_only=True)
        head = content["head"]
        head["classifier.8.weight"], head["classifier.8.bias"] = (
            head["classifier.8.weight"][:4],
            head["classifier.8.bias"][:4],
        )
        torch.save(content, tmp_path / "four.pth")
        assert "four.pth" in refused("evaluate", tmp_path / "four.pth", "--data", photographs("0/a.png"))

    def test_misspelt_key_in_a_checklist(self, refused: Refused, tmp_path: Path):
        (tmp_path / "mine.yaml").write_text("name: a\nversion: 1\ncriterias: []\n")
        assert "did you mean 'criteria'?" in refused("spec", "check", tmp_path / "mine.yaml")

    def test_control_characters_do_not_reach_the_terminal(self, refused: Refused, tmp_path: Path):
        table = tmp_path / "predictions.csv"
        table.write_text('image,grade,predicted\n"a\x1b[31m",9,0\n')
        assert "\x1b" not in refused("evaluate", table)


class TestEvaluateTable:
    def test_real_table(self, drgate: Run, real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """Somebody else's predictions: FAIL, the whole folder, the same JSON on standard output and on disk."""
        monkeypatch.chdir(tmp_path)
        table = real_data / "predictions" / "eyepacs-1024-weak-model.csv"
        ended = drgate("evaluate", table, "--format", "json", "--out", "report")
        assert ended.code == 1
        plain = json.loads(ended.out)
        assert plain == json.loads(Path("report/evaluation.json").read_text())
        assert plain["confusion_matrix"][4][4] == 9
        assert {path.name for path in Path("report").iterdir()} == {
            "evaluation.json",
            "statement.json",
            "predictions.parquet",
            "report.html",
            "report.md",
            "junit.xml",
            "names.csv",
            ".gitignore",
        }
        statement = Path("report/statement.json").read_bytes()
        assert drgate("evaluate", table, "--out", "report", "--quiet").code == 1
        assert Path("report/statement.json").read_bytes() == statement

    def test_another_look_is_not_overwritten(
        self, drgate: Run, write_csv: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(tmp_path)
        one = write_csv([{"image": "a", "grade": 0, "predicted": 0}], "one.csv")
        two = write_csv([{"image": "b", "grade": 0, "predicted": 0}], "two.csv")
        assert drgate("evaluate", one, "--out", "report").code == 3
        ended = drgate("evaluate", two, "--out", "report")
        assert ended.code == 2
        assert "holds something else" in ended.err
        assert drgate("evaluate", two, "--out", "report", "--force").code == 3

    def test_human_output_names_the_verdict(
        self, drgate: Run, real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(tmp_path)
        ended = drgate("evaluate", real_data / "predictions" / "eyepacs-1024-weak-model.csv")
        assert "does not meet medical-grade" in ended.out
        assert "1 of 16" in ended.out
        assert "report.html" in ended.err


class TestKeys:
    def test_passphrase_is_required_where_nobody_can_be_asked(
        self, drgate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
        monkeypatch.delenv("DRGATE_KEY_PASSPHRASE", raising=False)
        assert drgate("keygen", "--out", tmp_path / "k").code == 2
        monkeypatch.setenv("DRGATE_KEY_PASSPHRASE", "correct horse")
        assert drgate("keygen", "--out", tmp_path / "k").code == 0
        assert drgate("keygen", "--out", tmp_path / "k").code == 2

    def test_signed_by_environment(self, drgate: Run, real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """The key and its passphrase come from the environment; verify says genuine and FAIL."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("DRGATE_KEY_PASSPHRASE", "correct horse")
        drgate("keygen", "--out", "k")
        monkeypatch.setenv("DRGATE_KEY", Path("k.pem").read_text())
        table = real_data / "predictions" / "eyepacs-1024-weak-model.csv"
        assert drgate("evaluate", table, "--out", "report", "--quiet").code == 1
        verified = drgate("verify", "report/certificate.json", "--key", "k.pub", "--format", "json")
        assert verified.code == 1
        assert json.loads(verified.out)["genuine"] is True
        assert drgate("verify", "report/certificate.json").code == 3
        assert drgate("verify", "report/statement.json", "--key", "k.pub").code == 3
        drgate("keygen", "--out", "other")
        assert drgate("verify", "report/certificate.json", "--key", "other.pub").code in (2, 3)


class TestSigning:
    """`drgate sign`, and keys behind a command."""

    @pytest.fixture
    def certified(
        self, drgate: Run, write_csv: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Path:
        """A folder with report/certificate.json, signed through a command, and the keys ml and doctor."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("DRGATE_KEY", raising=False)
        for name in ("ml", "doctor"):
            drgate("keygen", "--out", name, "--no-passphrase")
        table = write_csv([{"image": str(i), "grade": i % 5, "predicted": i % 5} for i in range(20)])
        ended = drgate(
            "evaluate",
            table,
            "--spec",
            "smoke",
            "--out",
            "report",
            "--time",
            "2026-01-31T09:00:00Z",
            "--sign-command",
            "openssl dgst -sha256 -sign ml.pem",
            "--public-key",
            "ml.pub",
        )
        assert ended.code == 0, ended
        return tmp_path / "report" / "certificate.json"

    def test_by_a_command(self, drgate: Run, certified: Path):
        """What a command signed is verified as any other; the look is dated as it was told."""
        ended = drgate("verify", certified, "--key", "ml.pub", "--format", "json")
        assert ended.code == 0
        plain = json.loads(ended.out)
        assert (plain["genuine"], plain["recomputed"]) == (True, True)
        assert any("2026-01-31" in sentence for sentence in plain["unchecked"])
        assert drgate("verify", certified, "--max-age-days", "0").code == 2, "no look is that young for long"

    def test_again_in_a_role(self, drgate: Run, certified: Path):
        """The page is shown, drawn from what is signed; the new file is the same statement under the other key."""
        ended = drgate(
            "sign", certified, "--role", "clinical", "--key", "doctor.pem", "--trusted-key", "ml.pub", "--yes"
        )
        assert ended.code == 0
        for shown in (
            "is observed to meet smoke",
            "What was judged",
            "What this does not show",
            "not a medical device",
        ):
            assert shown in ended.err
        written = certified.with_name("table.clinical.certificate.json")
        first, second = (json.loads(path.read_bytes())["dsseEnvelope"] for path in (certified, written))
        assert first["payload"] == second["payload"]
        assert drgate("verify", written, "--key", "doctor.pub").code == 0
        assert drgate("verify", written, "--key", "ml.pub").code == 2
        again = drgate("sign", certified, "--role", "clinical", "--key", "doctor.pem", "--yes")
        assert (again.code, "this role has signed already" in again.err) == (2, True)

    def test_asks_before_it_signs(self, drgate: Run, certified: Path, monkeypatch: pytest.MonkeyPatch):
        """At a terminal it asks; no is no. What is signed is what was shown, though the file is swapped meanwhile."""
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        asked: list[str] = []
        shown = certified.read_bytes()

        def answer(question: str, **_: object) -> bool:
            asked.append(question)
            certified.write_bytes(b"{}")
            return len(asked) > 1

        monkeypatch.setattr("typer.confirm", answer)
        arguments = ("sign", certified, "--role", "clinical", "--key", "doctor.pem")
        ended = drgate(*arguments)
        assert (ended.code, ended.err.splitlines()[-1]) == (130, "Not signed; nothing was written.")
        assert not list(certified.parent.glob("*.clinical.*"))
        certified.write_bytes(shown)
        assert drgate(*arguments).code == 0
        assert "Sign this as clinical" in asked[1]
        written = certified.with_name("table.clinical.certificate.json")
        assert (
            json.loads(written.read_bytes())["dsseEnvelope"]["payload"] == json.loads(shown)["dsseEnvelope"]["payload"]
        )

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--key", "doctor.pem"), "Not an interactive terminal"),
            (("--yes",), "No signing key"),
            (("--yes", "--key", "ml.pem"), "This key has signed it already"),
            (("--yes", "--key", "doctor.pem", "--trusted-key", "doctor.pub"), "not among the trusted keys"),
            (("--yes", "--key", "doctor.pem", "--revoked", "revoked.txt"), "is revoked: the test set leaked"),
            (("--yes", "--key", "doctor.pem", "--predictions", "table.csv"), "does not hold the predictions"),
            (
                ("--yes", "--sign-command", "openssl dgst -sha256 -sign ml.pem", "--public-key", "doctor.pub"),
                "another key",
            ),
        ],
    )
    def test_what_is_not_signed(self, drgate: Run, certified: Path, write_csv, monkeypatch, arguments, says):
        """Without a person or --yes, without a key, twice by one key, by a stranger's certificate, contradicted."""
        monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
        statement = base64.b64decode(json.loads(certified.read_bytes())["dsseEnvelope"]["payload"])
        Path("revoked.txt").write_text(f"sha256:{hashlib.sha256(statement).hexdigest()} the test set leaked\n")
        write_csv([{"image": "a", "grade": 0, "predicted": 0}])
        before = sorted(certified.parent.iterdir())
        ended = drgate("sign", certified, "--role", "clinical", *arguments)
        assert ended.code == 2
        assert says in ended.err
        assert sorted(certified.parent.iterdir()) == before

    def test_what_cannot_be_drawn_is_not_signed(self, drgate: Run, certified: Path):
        """A statement whose evidence is of another type than ours: a sentence, no traceback, no signature."""
        hostile = certified.with_name("statement.json")
        hostile.write_bytes(
            statement_bytes(evaluation(spec=replace(evaluation().spec, content={**CONTENT, "reference": 7})))
        )
        (certified.with_name("predictions.parquet")).unlink()
        ended = drgate("sign", hostile, "--role", "clinical", "--key", "doctor.pem", "--yes")
        assert (ended.code, "Traceback" in ended.err) == (2, False)
        assert "cannot be shown" in ended.err
        assert not list(certified.parent.glob("*.clinical.*"))

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--sign-command", "cat"), "belong together"),
            (("--public-key", "k.pub"), "belong together"),
            (("--sign-command", "cat", "--public-key", "k.pub", "--key", "k.pem"), "give one of them"),
            (("--sign-command", "'cat", "--public-key", "k.pub"), "quote it as in a shell"),
            (("--sign-command", " ", "--public-key", "k.pub"), "is empty"),
            (("--sign-command", "no-such-program-here x", "--public-key", "k.pub"), "not a program here"),
            (("--time", "yesterday"), "expected ISO 8601"),
            (("--previous", "absent.json"), "absent.json cannot be read"),
        ],
    )
    def test_bad_usage_is_told_before_anything_is_scored(
        self, refused: Refused, write_csv: Callable[..., Path], monkeypatch, arguments, says
    ):
        monkeypatch.delenv("DRGATE_KEY", raising=False)
        table = write_csv([{"image": "a", "grade": 0, "predicted": 0}])
        assert says in refused("evaluate", table, *arguments)

    def test_report_says_whether_the_signature_was_verified(self, drgate: Run, certified: Path):
        """A key's name in a file is a claim; the page says so, and is not drawn for a key that did not sign."""
        claimed = drgate("report", certified, "--as", "markdown")
        assert "the signature was not verified here" in claimed.out
        verified = drgate("report", certified, "--as", "html", "--key", "ml.pub")
        assert verified.out == (certified.parent / "report.html").read_text(), "drawn from the signed bytes, both times"
        assert drgate("report", certified, "--as", "markdown", "--key", "doctor.pub").code == 2
        assert drgate("report", certified.parent / "evaluation.json", "--as", "markdown", "--key", "ml.pub").code == 2

    def test_previous_certificate_is_compared(self, drgate: Run, certified: Path, write_csv: Callable[..., Path]):
        """What changed against an earlier certificate is stated and shown."""
        rows = [{"image": str(i), "grade": i % 5, "predicted": 0 if i < 10 else i % 5} for i in range(20)]
        worse = write_csv(rows, "worse.csv")
        drgate("evaluate", worse, "--spec", "smoke", "--out", "worse", "--previous", certified, "--quiet")
        found = json.loads(Path("worse/statement.json").read_bytes())["predicate"]["drgate"]["changes"]
        assert found["same_test_set"] is True
        assert found["criteria"]["accuracy"]["to"]["k"] < found["criteria"]["accuracy"]["from"]["k"] == 20
        page = Path("worse/report.md").read_text()
        assert "## What changed" in page
        assert "20 of 20" in page
        assert drgate("verify", "worse/statement.json", "--parent", certified).code == 3


class TestReportCommand:
    @pytest.mark.parametrize("kind", ["terminal", "html", "markdown", "junit"])
    def test_draws_an_evaluation_again(
        self, kind: str, drgate: Run, write_csv: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(tmp_path)
        table = write_csv([{"image": str(i), "grade": i % 5, "predicted": i % 5} for i in range(20)])
        drgate("evaluate", table, "--out", "report", "--quiet")
        ended = drgate("report", "report/evaluation.json", "--as", kind)
        assert ended.code == 0
        assert "medical-grade" in ended.out

    def test_not_an_evaluation(self, refused: Refused, tmp_path: Path):
        (tmp_path / "evaluation.json").write_text('{"verdict": "PASS"}')
        assert "of another format than 'drgate evaluation 3'; evaluate again" in refused(
            "report", tmp_path / "evaluation.json"
        )
        (tmp_path / "evaluation.json").write_text('{"verdict": "PASS", "format": "drgate evaluation 3"}')
        assert "it has no criteria; expected an evaluation that drgate wrote" in refused(
            "report", tmp_path / "evaluation.json"
        )
        plain = evaluation().to_json()
        plain["spec"]["content"] |= {"reference": 7}
        (tmp_path / "evaluation.json").write_text(json.dumps(plain))
        assert "cannot be shown" in refused("report", tmp_path / "evaluation.json", "--as", "html")

    @pytest.mark.parametrize("kind", ["terminal", "html", "markdown", "junit"])
    def test_the_example_in_the_repository_is_read(self, drgate: Run, kind: str):
        example = Path(__file__).parents[1] / "reports" / "example" / "evaluation.json"
        ended = drgate("report", example, "--as", kind)
        assert ended.code == 0
        assert "predictions.csv (predictions, no model) meets screening-referable version 2" in ended.out.replace(
            "\\", ""
        )


class TestLightInstallation:
    def test_a_command_that_needs_more_says_what_to_install(self, tmp_path: Path):
        """Without torch: one sentence that names the package and the extra, exit code 2, no traceback."""
        blocked = textwrap.dedent("""
            import sys

            class Absent:
                def find_spec(self, name, path=None, target=None):
                    if name == "torch":
                        raise ModuleNotFoundError("No module named 'torch'", name=name)

            sys.meta_path.insert(0, Absent())
            from {package}.cli import main
            main({arguments!r})
        """)
        for package, arguments, extra in (
            ("drgate", ["score", "model.pth", "--data", "data", "--out", "x.parquet"], "models"),
            ("trainer", ["--dataset", "data"], "train"),
        ):
            with zipfile.ZipFile(tmp_path / "model.pth", "w") as archive:
                archive.writestr("model/data.pkl", b"")
            photograph(tmp_path / "data" / "No_DR" / "a.png", seed=1)
            script = blocked.format(package=package, arguments=arguments)
            here = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
            ended = subprocess.run(
                [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False, env=here
            )
            assert ended.returncode == 2, ended.stderr
            assert "Traceback" not in ended.stderr
            assert "this needs torch" in ended.stderr
            assert f'".[{extra}]"' in ended.stderr
