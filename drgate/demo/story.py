"""All steps from training to export with the public commands, in one folder that keeps all files.

    demo(Path("drgate-demo"))

Each command is shown and then run as a separate process; any of them can be run again from the folder. The early model
is judged on the validation split, so that the test split gets only one look.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from drgate.demo.synthetic import write_dataset
from drgate.errors import DrgateError
from drgate.files import refuse_existing
from drgate.scale import GRADES
from drgate.screen import console, progress

TRAIN_PATIENTS: Final = 170
VAL_PATIENTS: Final = 40
TEST_PATIENTS: Final = 200
"""Number of patients for each grade, by the worse eye; each has two photographs."""

TRAINING: Final = {
    "base": "embedded",
    "learning_rate": "5e-4",
    "warmup_epochs": "5",
    "batch_size": "32",
    "gradient_accumulation_steps": "1",
    "num_epochs": "10",
    "select_from_epoch": "8",
    "focal_loss_gamma": "1",
    "class_weight_severe": "1.5",
    "class_weight_pdr": "3",
    "dropout": "0.05",
    "augmentation": "none",
}
EARLY_EPOCH: Final = 1


def make_data(folder: Path, *, seed: int, quiet: bool = False) -> None:
    """Write the demo's synthetic data set: images and labels.csv, split by patient."""
    refuse_existing(folder, "give a new folder with --out")
    with progress("Drawing fundus photographs", quiet) as (started, advance):
        drawn = 0

        def report(done: int, total: int) -> None:
            nonlocal drawn
            started(total)
            advance(done - drawn)
            drawn = done

        write_dataset(
            folder,
            seed=seed,
            train_patients=[TRAIN_PATIENTS] * len(GRADES),
            val_patients=[VAL_PATIENTS] * len(GRADES),
            test_patients=[TEST_PATIENTS] * len(GRADES),
            progress=report,
        )


def demo(folder: Path, *, seed: int = 0, quiet: bool = False) -> int:
    """Run all steps; returns the exit code of the exported model's verdict.

    Raises DrgateError if a command ends with an unexpected exit code.
    """
    refuse_existing(folder, "give a new folder with --out, or remove it")
    folder.mkdir(parents=True)
    story = _Story(folder, quiet)
    began = time.monotonic()

    story.say(
        "Make synthetic fundus photographs: two eyes per patient, graded by the ICDR rules, split by patient.",
        "They show no real eye, and no model of this demo is for clinical use.",
    )
    story.run("drgate", "demo", "--data-only", "--out", "data", "--seed", str(seed))

    story.say(
        "Make a patient key. With it the checkpoint recognises its training patients without naming anybody, and the",
        "log of looks recognises patients of other test sets.",
    )
    story.run("drgate", "keygen", "--patients", "--out", "keys/patients")
    patients = ("--patient-key", "keys/patients.key")

    story.say("Fine-tune the embedded SigLIP base with LoRA. Each epoch is validated; epoch checkpoints are kept.")
    settings = [word for name, value in TRAINING.items() for word in (f"--{name}", value)]
    story.run(
        "drtrain",
        "--dataset",
        "data",
        *settings,
        *patients,
        "--seed",
        str(seed),
        "--checkpoint_frequency",
        "1",
        "--usd_per_hour",
        "0.10",
        "--output_dir",
        "runs/first",
    )

    story.say(
        "Judge an early checkpoint, which was trained too briefly. Use the validation split,",
        "because each look at the test split counts and the checklist allows only one.",
    )
    early = f"runs/first/epoch_{EARLY_EPOCH:02d}.pth"
    code = story.run(
        "drgate",
        "evaluate",
        early,
        "--data",
        "data",
        "--split",
        "val",
        *patients,
        "--out",
        "reports/early",
        expected=(0, 1, 3),
    )
    story.say(
        f"Exit code {code}: {'a criterion failed, so this model is refused.' if code == 1 else 'see its report.'}"
    )

    story.say("Make a signing key. This one is not encrypted; protect a real one with a passphrase or a key store.")
    story.run("drgate", "keygen", "--out", "keys/demo", "--no-passphrase")

    story.say("Judge the best checkpoint once on the test split, by confidence bounds, and sign the certificate.")
    verdict = story.run(
        "drgate",
        "evaluate",
        "runs/first/best_model.pth",
        "--data",
        "data",
        "--split",
        "test",
        *patients,
        "--key",
        "keys/demo.pem",
        "--out",
        "reports/best",
        expected=(0, 1, 3),
    )

    story.say("Verify the certificate with the public key: signature, model file, and all numbers, recomputed.")
    story.run(
        "drgate",
        "verify",
        "reports/best/certificate.json",
        "--key",
        "keys/demo.pub",
        "--model",
        "runs/first/best_model.pth",
        expected=(verdict,),
    )

    story.say("Export the model, which requires a PASS. The ONNX file is judged again and gets its own certificate.")
    exported = story.run(
        "drgate",
        "export",
        "runs/first/best_model.pth",
        "--certificate",
        "reports/best/certificate.json",
        "--data",
        "data",
        "--key",
        "keys/demo.pem",
        "--out",
        "bundle",
        expected=(0, 1, 3),
    )
    if exported == 0:
        story.run(
            "drgate", "verify", "bundle/certificate.json", "--key", "keys/demo.pub", "--model", "bundle/model.onnx"
        )

    minutes = (time.monotonic() - began) / 60
    outcome = {0: "certified and exported", 1: "refused: a criterion failed", 3: "refused: not enough evidence"}[
        exported
    ]
    story.say(f"The model was {outcome}. This took {minutes:.1f} minutes. Files to look at in {folder}:")
    for path, what in (
        ("reports/best/report.html", "report of the best model: the checklist with its evidence"),
        ("reports/early/report.html", "report of the early model: why it was refused"),
        ("bundle/README.md", "the exported model, and how to grade photographs with it"),
        ("runs/first/record.jsonl", "record of the training run"),
        ("commands.sh", "all commands of this demo, to run again"),
    ):
        if (folder / path).exists():
            story.point(path, what)
    return exported


class _Story:
    """Announces a step, shows its command and runs it in the demo's folder."""

    def __init__(self, folder: Path, quiet: bool) -> None:
        self.folder, self.quiet = folder, quiet
        (folder / "commands.sh").write_text(
            "#!/bin/sh\n# The commands of the demo. Run all in an empty folder, or one here with another --out.\n"
        )

    def say(self, *sentences: str) -> None:
        if not self.quiet:
            screen = console(sys.stderr)
            screen.print()
            for sentence in sentences:
                screen.print(sentence, style="bold", markup=False, highlight=False)

    def point(self, path: str, what: str) -> None:
        if not self.quiet:
            console(sys.stderr).print(f"  {path:<28} {what}", markup=False, highlight=False)

    def run(self, program: str, *arguments: str, expected: tuple[int, ...] = (0,)) -> int:
        """Run a public command as a separate process; returns its exit code."""
        shown = shlex.join([program, *arguments])
        with (self.folder / "commands.sh").open("a") as script:
            script.write(f"{shown}\n")
        if not self.quiet:
            console(sys.stderr).print(f"$ {shown}", style="cyan", markup=False, highlight=False, soft_wrap=True)
        module = {"drgate": "drgate", "drtrain": "trainer"}[program]
        quiet = ["--quiet"] if self.quiet else []
        # The user's own key must not sign a synthetic model.
        own_keys_only = {
            name: value
            for name, value in os.environ.items()
            if name == "DRGATE_CACHE" or not name.startswith("DRGATE_")
        }
        result = subprocess.run(
            [sys.executable, "-m", module, *arguments, *quiet], cwd=self.folder, env=own_keys_only, check=False
        )
        if result.returncode not in expected:
            raise DrgateError(
                f"The demo stopped: `{shown}` ended with exit code {result.returncode}. The message above says why."
            )
        return result.returncode
