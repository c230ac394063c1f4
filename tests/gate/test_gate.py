"""The gate: a real repository, a change to it, and whether it may be merged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from drgate.certificate.statement import Certificate, read_certificate
from drgate.errors import DrgateError, PolicyError, RepositoryError
from drgate.gate.gate import gate
from drgate.gate.waiver import covers
from drgate.report import gate as drawn
from tests.support.repositories import (
    HOSTILE,
    NOW,
    RECENT,
    Repository,
    answer,
    answers,
    closing,
    copy_of,
    git_in,
    of,
    said,
)


class TestChangedModel:
    """A merge that changes a model."""

    def test_nothing_changed_is_open(self, repository):
        """What holds on the base branch holds on."""
        report = answer(repository)
        assert (report.exit_code, closing(report)) == (0, {})
        assert of(report, "rules").reason == "The rules are those of the base branch."

    def test_with_a_good_certificate_passes(self, demanding, tmp_path):
        """Signed, on the policy's test set, by its checklist, fresh, every number recomputed."""
        repository = copy_of(demanding, tmp_path / "repository")
        repository.add_model("dr.pth", b"better weights", table=answers(2))
        report = answer(repository)
        assert report.exit_code == 0, said(report)
        assert {f.status for f in report.findings if f.required} == {"PASS"}
        assert "Every number was recomputed from certificates/dr.pth-" in of(report, "predictions").reason
        assert of(report, "accuracy").status == "PASS"

    def test_with_the_old_certificate_fails(self, repository):
        """A certificate speaks of bytes, not of a file name."""
        repository.write("models/dr.pth", b"better weights")
        report = answer(repository)
        assert report.exit_code == 3
        assert "No certificate in certificates counts for this file" in of(report, "certificate").reason

    def test_one_byte_more_is_another_model(self, repository):
        """Of the same size or not."""
        repository.write("models/dr.pth", b"weights of the first model.")
        assert answer(repository).exit_code == 3

    def test_that_failed_stays_out(self, repository):
        """A genuine certificate that says FAIL: exit code 1, and the line that failed is named."""
        repository.add_model("dr.pth", b"worse weights", table=answers(2, right=0.4))
        report = answer(repository)
        assert report.exit_code == 1
        assert of(report, "accuracy").status == "FAIL"

    def test_without_enough_evidence_is_3(self, repository):
        """Too few images: not failed, not shown."""
        repository.add_model("dr.pth", b"unproven weights", table=answers(2, images=20, right=1))
        report = answer(repository)
        assert report.exit_code == 3
        assert of(report, "accuracy").status == "INSUFFICIENT"

    def test_too_old_a_certificate_is_not_for_a_changed_model(self, repository):
        """Its look was taken longer ago than the policy allows; an unchanged model keeps it."""
        repository.add_model("dr.pth", b"better weights", table=answers(2), time="2025-01-31T09:00:00Z")
        report = answer(repository)
        assert closing(report) == {"model:models/dr.pth:site-a:age": "FAIL"}
        assert "at most 365 are allowed" in of(report, "age").reason
        repository.merge()
        assert answer(repository).exit_code == 0

    def test_of_tomorrow_is_refused(self, repository):
        """A certificate dated ahead of the clock would stay young for longer."""
        assert "model:models/dr.pth:site-a:age" in closing(answer(repository, now=datetime(2026, 1, 1, tzinfo=UTC)))

    def test_expiry_ends_unchanged_models_too(self, repository):
        """What its checklist sets as its end is signed, and holds for all."""
        repository.replace("checklists/site-a.yaml", "version: 1", "version: 2\nvalid_days: 10")
        repository.add_model("dr.pth", b"weights of the first model")
        repository.merge()
        report = answer(repository)
        assert closing(report) == {"model:models/dr.pth:site-a:age": "FAIL"}
        assert "It expired on 2026-02-10." in of(report, "age").reason

    def test_moved_is_not_changed(self, repository):
        """The same bytes under another name need no fresh certificate."""
        (repository.root / "models/dr.pth").rename(repository.root / "models/renamed.pth")
        report = answer(repository, now=NOW + timedelta(days=400))
        assert report.exit_code == 0, said(report)

    @pytest.mark.parametrize("time", ["2026-02-01T09:00:00Z", RECENT])
    def test_later_look_speaks(self, repository, time):
        """Of two certificates for one model on one test set, the later look decides, also where it says FAIL."""
        self.worse_look(repository, time=time)
        report = answer(repository)
        assert report.exit_code == 1
        assert of(report, "accuracy").status == "FAIL"

    def worse_look(self, repository: Repository, time: str = "2026-02-01T09:00:00Z", **options: Any) -> Path:
        """A later look at the same model, which fails; its certificate."""
        worse = answers(1)
        worse["grade"] = (worse["grade"] + 1) % 5
        files = {"dr.pth": b"weights of the first model"}
        evaluation, predictions = repository.judge(files, table=worse, time=time)
        repository.certify("certificates/again", evaluation, predictions, **options)
        return next((repository.root / "certificates/again").glob("*.certificate.json"))

    def test_later_look_cannot_be_hidden(self, repository):
        """Its certificate is deleted, or stands beside a forged copy that makes it look tampered with."""
        path = self.worse_look(repository)
        genuine = read_certificate(path)
        assert isinstance(genuine, Certificate)
        forged = replace(genuine, signature=repository.keys["clinical"].sign(b"something else"))
        repository.write("certificates/again/copy.json", forged.to_bytes())
        report = answer(repository)
        assert of(report, "accuracy").status == "FAIL"
        assert closing(report)["certificate:certificates/again/copy.json"] == "REFUSED"
        (repository.root / "certificates/again/copy.json").unlink()
        path.unlink()
        report = answer(repository)
        assert closing(report) == {"model:models/dr.pth:site-a:look": "NOT_ASSESSED"}
        assert "holds a later look of this model (2026-02-01T09:00:00Z)" in of(report, "look").reason

    @pytest.mark.parametrize("logged", [True, False])
    def test_later_look_speaks_under_one_signature(self, repository, logged):
        """Where two must sign, the FAIL that one of them signed is enough to close, in the chain or not."""
        repository.replace("drgate.toml", '= ["clinical"]', '= ["clinical", "engineering"]')
        chain = (repository.root / "looks/site-a.jsonl").read_bytes()
        evaluation, _ = repository.judge({"dr.pth": b"weights of the first model"})
        repository.certify("certificates/second", evaluation, None, roles=("engineering",))
        assert answer(repository).exit_code == 0
        self.worse_look(repository, roles=("engineering",))
        if not logged:
            repository.write("looks/site-a.jsonl", chain)
        assert of(answer(repository), "accuracy").status == "FAIL"

    @pytest.mark.parametrize("stash", ["docs/figure.bin", "models/README.txt"])
    def test_old_weights_by_way_of_another_file(self, repository, stash):
        """Bytes that a merge brought in as something else were never judged, so a model made of them is changed."""
        evaluation, predictions = repository.judge({"dr.pth": b"old"}, table=answers(2), time="2024-01-31T09:00:00Z")
        repository.certify("certificates/old", evaluation, predictions)
        repository.write(stash, b"old")
        assert answer(repository).exit_code == 0
        repository.merge()
        (repository.root / stash).rename(repository.root / "models/dr.pth")
        assert closing(answer(repository)) == {"model:models/dr.pth:site-a:age": "FAIL"}


class TestWeakening:
    """A change of the rules, alone or with a model, is held against the base branch."""

    def easier(self, repository: Repository) -> None:
        repository.replace("checklists/site-a.yaml", "version: 1", "version: 2")
        repository.replace("checklists/site-a.yaml", "0.6}", "0.5}")

    def test_lowered_threshold_fails(self, repository):
        """Alone, though every model would pass."""
        self.easier(repository)
        report = answer(repository)
        assert (report.exit_code, closing(report)) == (1, {"spec:sensitivity:pdr": "FAIL"})
        assert "at least 0.6 becomes at least 0.5" in said(report)

    def test_lowered_threshold_with_the_model_that_needs_it(self, repository):
        """The models are then judged by the base branch's checklist."""
        self.easier(repository)
        repository.add_model("dr.pth", b"better weights", table=answers(2))
        assert set(closing(answer(repository))) == {
            "spec:sensitivity:pdr",
            "model:models/dr.pth:site-a:certificate",
        }

    def test_content_changed_under_the_same_version(self, repository):
        """Certificates name their checklist by name and version; no waiver helps."""
        repository.replace("checklists/site-a.yaml", "0.6}", "0.5}")
        report = answer(repository)
        assert closing(report)["spec:version"] == "FAIL"
        with pytest.raises(PolicyError, match="A waiver cannot cover spec:version here"):
            covers(report, ["spec:version"])

    def test_raised_threshold_is_the_new_rule_at_once(self, repository):
        """Stronger is allowed, and every model must meet it."""
        repository.replace("checklists/site-a.yaml", "version: 1", "version: 2")
        repository.replace("checklists/site-a.yaml", "0.6}", "0.65}")
        assert closing(answer(repository)) == {"model:models/dr.pth:site-a:certificate": "NOT_ASSESSED"}
        repository.add_model("dr.pth", b"weights of the first model")
        report = answer(repository)
        assert report.exit_code == 0, said(report)
        assert "stronger" in said(report)

    @pytest.mark.parametrize(
        ("old", "new", "id"),
        [
            ("max_age_days = 365", "max_age_days = 366", "policy:max_age_days"),
            ("require_predictions", "allow_md5_pointers = true\nrequire_predictions", "policy:allow_md5_pointers"),
            ('"keys/clinical.pub"]', '"keys/clinical.pub", "keys/new.pub"]', "policy:trusted_keys.clinical"),
            ('["clinical"]', '["engineering"]', "policy:required_roles"),
            ('["clinical"]', '["clinical", "engineering"]\nrequired_count = 1', "policy:required_roles"),
            ("a" * 64, "c" * 64, "policy:test_sets.site-a"),
            ('models = ["models/*.pth"]', 'models = ["models/d*.pth"]', "policy:models"),
        ],
    )
    def test_of_the_policy_fails(self, repository, old, new, id):
        """Each key that lets more through."""
        repository.write("keys/new.pub", (repository.root / "secret/stranger.pub").read_bytes())
        repository.replace("drgate.toml", old, new)
        report = answer(repository)
        assert closing(report)[id] == "FAIL", said(report)
        assert report.exit_code == 1

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("max_age_days = 365", "max_age_days = 300"),
            ('["clinical"]', '["clinical", "engineering"]'),
            (', engineering = ["keys/engineering.pub"]', ""),
            ('certificates"', 'certificates"'),
        ],
    )
    def test_of_nothing_is_not_one(self, repository, old, new):
        """What only asks for more is no weakening."""
        text = (repository.root / "drgate.toml").read_text()
        repository.write("drgate.toml", text.replace(old, new))
        assert not [id for id in closing(answer(repository)) if id.startswith(("policy:", "spec:"))]

    def test_predictions_no_longer_asked_for(self, demanding, tmp_path):
        """Numbers that nobody recomputes."""
        repository = copy_of(demanding, tmp_path / "repository")
        repository.replace("drgate.toml", "require_predictions = true", "require_predictions = false")
        assert closing(answer(repository)) == {"policy:require_predictions": "FAIL"}

    def test_key_exchanged_in_its_file(self, repository):
        """The policy's text is the same; the key in the file is another."""
        repository.write("keys/clinical.pub", (repository.root / "secret/stranger.pub").read_bytes())
        assert closing(answer(repository))["policy:trusted_keys.clinical"] == "FAIL"

    def test_revocation_taken_back(self, repository):
        """What was revoked stays revoked."""
        line = f'revoked = ["{"e" * 64} the laptop was lost"]\n'
        repository.replace("drgate.toml", "max_age", f"{line}max_age")
        repository.merge()
        repository.replace("drgate.toml", line, "")
        assert closing(answer(repository)) == {"policy:revoked": "FAIL"}

    def test_dropped_patient_column_is_named(self, repository):
        """Labels in the repository: a test set that forgets whose eyes it holds is another one."""
        repository.replace("drgate.toml", "looks =", 'manifest = "labels.csv"\nlooks =')
        repository.write("labels.csv", "image,grade,patient\na.png,0,p1\n")
        assert answer(repository).exit_code == 0, "to hold the labels to a file only asks for more"
        repository.merge()
        assert answer(repository).exit_code == 0
        repository.write("labels.csv", "image,grade\na.png,0\n")
        report = answer(repository)
        assert closing(report) == {"policy:test_sets.site-a": "FAIL"}
        assert "lose the column 'patient'" in said(report)

    def test_policy_removed(self, repository):
        """Then nothing would be guarded."""
        (repository.root / "drgate.toml").unlink()
        with pytest.raises(PolicyError, match=r"no policy in the staged files: the change removes drgate\.toml"):
            answer(repository)

    def test_policy_moved_into_pyproject(self, repository):
        """Where it lies does not matter; two are one too many."""
        text = (repository.root / "drgate.toml").read_text()
        repository.write(
            "pyproject.toml", text.replace("[gate]", "[tool.drgate.gate]").replace("[[gate", "[[tool.drgate.gate")
        )
        with pytest.raises(PolicyError, match="keep one"):
            answer(repository)
        (repository.root / "drgate.toml").unlink()
        assert answer(repository).exit_code == 0


class TestFirstAdoption:
    """The base branch has no policy yet."""

    def test_is_closed_and_says_what_to_do(self, repository):
        """Judged by its own policy, which no trusted person has approved yet."""
        (repository.root / "drgate.toml").rename(repository.root / "later.toml")
        repository.merge()
        (repository.root / "later.toml").rename(repository.root / "drgate.toml")
        report = answer(repository)
        assert closing(report) == {"policy:adoption": "NOT_ASSESSED"}
        assert report.exit_code == 3
        assert "main has no policy" in said(report)
        assert "Judged by the change's own `drgate.toml`, because `main` (" in drawn.markdown(report)
        repository.merge()
        assert answer(repository).exit_code == 0

    def test_another_policy_by_name_is_no_way_around(self, repository):
        """A policy that the base branch does not have decides nothing there."""
        text = (repository.root / "drgate.toml").read_text()
        repository.write("easy.toml", text.replace("= 365", "= 3650"))
        assert answer(repository, policy="easy.toml").exit_code == 3

    def test_no_policy_anywhere(self, repository):
        """Nothing to judge by."""
        (repository.root / "drgate.toml").unlink()
        repository.merge()
        with pytest.raises(PolicyError, match="write one first"):
            answer(repository)


class TestRepository:
    """What of Git is read, and what is refused."""

    def test_base_ref_that_is_not_here(self, repository):
        """A shallow clone: how to fetch it."""
        with pytest.raises(RepositoryError, match=r"no commit 'origin/main'.*git fetch --depth=1 origin"):
            answer(repository, base_ref="origin/main")

    def test_tag_that_is_called_like_the_base_branch(self, repository):
        """Git itself would take the tag; whoever proposes the change can push one."""
        repository.git("update-ref", "refs/remotes/origin/main", "main")
        repository.replace("drgate.toml", "= 365", "= 366")
        repository.stage()
        repository.git("commit", "--quiet", "-m", "a change")
        for ref in ("origin/main", "main"):
            repository.git("tag", ref, "HEAD")
            assert closing(answer(repository, base_ref=ref)) == {"policy:max_age_days": "FAIL"}

    @pytest.mark.parametrize("old", [False, True])
    def test_folder_with_the_files_of_a_repository(self, repository, monkeypatch, old):
        """A change can bring one: neither is it judged in place of the real one, nor is its configuration run."""
        ran = repository.root.parent / "ran"
        for name in ("HEAD", "index", "packed-refs"):
            if (repository.root / ".git" / name).exists():
                repository.write(f"sub/{name}", (repository.root / ".git" / name).read_bytes())
        for name in ("objects", "refs"):
            shutil.copytree(repository.root / ".git" / name, repository.root / "sub" / name)
        settings = f'repositoryformatversion = 0\nbare = false\nworktree = .\nfsmonitor = "touch {ran}; false"\n'
        repository.write("sub/config", f"[core]\n{settings}")
        if old:  # a Git that does not know safe.bareRepository
            monkeypatch.setattr("drgate.gate.repository._GIT", ("git",))
        with pytest.raises(RepositoryError, match=r"but no \.git" if old else "bare repository"):
            gate(repository.root / "sub", base_ref="main", now=NOW)
        assert not ran.exists()

    @pytest.mark.parametrize("ref", ["--upload-pack=x", "main\0x", "", "HEAD:models", "nowhere;touch x"])
    def test_hostile_ref(self, repository, ref):
        """No ref is an option or a command."""
        with pytest.raises(RepositoryError):
            answer(repository, base_ref=ref)

    def test_shallow_clone(self, repository, tmp_path):
        """With the one commit of the base branch that it takes."""
        repository.add_model("dr.pth", b"better weights", table=answers(2))
        repository.stage()
        repository.git("commit", "--quiet", "-m", "a change")
        clone = Repository(tmp_path / "clone", repository.keys)
        clone.root.mkdir()
        clone.git("clone", "--quiet", "--depth=1", "--branch=change", f"file://{repository.root}", ".")
        with pytest.raises(RepositoryError, match="clone is shallow"):
            gate(clone.root, base_ref="origin/main", now=NOW)
        clone.git("fetch", "--quiet", "--depth=1", "origin", "+refs/heads/main:refs/remotes/origin/main")
        assert gate(clone.root, base_ref="origin/main", now=NOW).exit_code == 0

    def test_no_commit_yet(self, tmp_path):
        """A new repository has nothing to compare with, and no fetch would help."""
        git_in(tmp_path, "init", "--quiet")
        with pytest.raises(RepositoryError, match="has no commit yet; commit the policy first"):
            gate(tmp_path, base_ref="HEAD")

    def test_no_repository(self, tmp_path):
        """A folder of files has no base branch."""
        with pytest.raises(RepositoryError, match="not in a Git repository"):
            gate(tmp_path, base_ref="main")

    def test_what_is_not_staged_is_said(self, repository):
        """The answer is about what would be committed."""
        repository.stage()
        repository.write("models/dr.pth", b"not staged")
        repository.write("certificates/new.json", b"{}")
        report = gate(repository.root, base_ref="main", now=NOW)
        assert report.exit_code == 0
        assert "Not staged, so not judged: certificates/new.json, models/dr.pth" in said(report)

    def test_from_a_folder_below_the_root(self, repository):
        """Paths are those of the repository."""
        assert gate(repository.root / "models", base_ref="main", now=NOW).exit_code == 0

    @pytest.mark.parametrize(
        "path", ["../outside.yaml", "/etc/passwd", "a/../../b", "checklists/./x", ".git/config", "a\\b", "C:/x", ""]
    )
    def test_policy_that_points_outside(self, repository, path):
        """Above the root, absolute, or into Git's own folder."""
        repository.replace("drgate.toml", "checklists/site-a.yaml", path.replace("\\", "\\\\"))
        with pytest.raises(PolicyError, match="spec"):
            answer(repository)
        with pytest.raises(PolicyError):
            answer(repository, policy=path or "..")

    def test_symbolic_links_out_of_the_tree(self, repository):
        """A checklist, a key or a whole folder that is a link is not read."""
        outside = repository.root.parent / "outside.yaml"
        outside.write_text((repository.root / "checklists/site-a.yaml").read_text())
        (repository.root / "checklists/site-a.yaml").unlink()
        (repository.root / "checklists/site-a.yaml").symlink_to(outside)
        with pytest.raises(RepositoryError, match="symbolic link"):
            answer(repository)
        (repository.root / "checklists/site-a.yaml").unlink()
        (repository.root / "checklists").rmdir()
        (repository.root / "checklists").symlink_to(outside.parent)
        with pytest.raises(RepositoryError, match="not in the staged files"):
            answer(repository)

    @pytest.mark.parametrize(
        ("path", "content", "error"),
        [
            ("checklists/site-a.yaml", b"a: &a [*a, " * 1000, "anchors"),
            ("checklists/site-a.yaml", b"&a " + b"[&a " * 15_000, "anchors"),
            ("checklists/site-a.yaml", b"[" * 50_000, "nested more than"),
            ("checklists/site-a.yaml", b"#" * (2 << 20), "larger than 64 KB"),
            ("drgate.toml", b"a = " + b"[" * 500_000, "not valid TOML"),
            ("drgate.toml", b"\xff", "not valid TOML"),
            ("drgate.toml", b"gate = 3\n", "holds no policy"),
            ("keys/clinical.pub", b"-----BEGIN PUBLIC KEY-----\n", "no key that can be read"),
            ("keys/clinical.pub", b"A" * (1 << 17), "larger than 64 KB"),
        ],
    )
    def test_hostile_rules(self, repository, path, content, error):
        """One sentence each, and no long wait."""
        repository.write(path, content)
        with pytest.raises(DrgateError, match=error) as refused:
            answer(repository)
        assert "\n" not in str(refused.value)


class TestGateCommand:
    """`drgate gate`: what it writes, here and in CI."""

    def test_on_github(self, repository, drgate, monkeypatch, tmp_path):
        """Summary appended, annotations on standard error, JSON alone on standard output."""
        repository.write(HOSTILE, b"weights")
        repository.stage()
        summary = tmp_path / "summary.md"
        summary.write_text("before\n")
        monkeypatch.chdir(repository.root)
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
        ended = drgate("gate", "--base-ref", "main", "--format", "json")
        assert ended.code == 3
        assert json.loads(ended.out)["open"] is False
        assert "##[" not in ended.out
        assert "##[error]" in json.loads(ended.out)["findings"][-1]["group"] or "##[error]" in str(
            json.loads(ended.out)
        )
        assert all(line.startswith(("::error title=", "::warning title=")) for line in ended.err.splitlines())
        assert summary.read_text().startswith("before\n## ")
        ended = drgate("gate", "--base-ref", "main")
        assert "::" not in ended.out
        assert "##[" not in ended.out

    def test_files_and_target_branch(self, repository, drgate, monkeypatch, tmp_path):
        """--junit and --comment write; the target of the request is known in CI."""
        repository.git("update-ref", "refs/remotes/origin/main", "main")
        monkeypatch.chdir(repository.root)
        monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
        for name in ("GITHUB_BASE_REF", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME"):
            monkeypatch.setenv(name, "main")
            ended = drgate("gate", "--junit", tmp_path / "gate.xml", "--comment", tmp_path / "gate.md")
            assert ended.code == 0, ended
            assert "The gate is open: 1 model, nothing waived." in ended.out
            monkeypatch.delenv(name)
        assert ET.parse(tmp_path / "gate.xml").getroot().get("name") == "drgate gate"
        assert "The gate is open" in (tmp_path / "gate.md").read_text()
        ended = drgate("gate")
        assert ended.code == 2
        assert "--base-ref" in ended.out

    def test_where_nothing_can_be_judged(self, repository, drgate, monkeypatch, tmp_path):
        """Every output says so; a change that brings a green report of its own has none of it shown."""
        monkeypatch.chdir(repository.root)
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
        repository.write("gate.md", "## The gate is open\n")
        repository.write("gate.xml", '<testsuites tests="1" failures="0"/>')
        repository.replace("drgate.toml", "checklists/site-a.yaml", "checklists/##[add-mask]x.yaml")
        repository.stage()
        ended = drgate("gate", "--base-ref", "main", "--junit", "gate.xml", "--comment", "gate.md")
        assert ended.code == 2
        assert "##[" not in ended.out + ended.err
        assert ended.err.startswith("::error title=rules%3A gate::Refused. checklists/")
        assert ET.parse("gate.xml").getroot().get("errors") == "1"
        for text in (Path("gate.md").read_text(), (tmp_path / "summary.md").read_text(), ended.out):
            assert "The gate is closed: the change could not be judged." in text
        assert json.loads(drgate("gate", "--base-ref", "main", "--format", "json").out)["open"] is False

    @pytest.mark.parametrize("kind", ["file", "link", "folder", "folder of a link"])
    def test_nothing_of_the_change_is_left_in_the_place_of_a_report(self, repository, drgate, monkeypatch, kind):
        """A file, a link or a folder, whichever of the two reports it replaces: no forged report can be read."""
        monkeypatch.chdir(repository.root)
        monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
        forged = "## The gate is open\n"
        repository.write("outside.md", forged)
        names = ["gate.xml", "gate.md"]
        if kind == "folder of a link":
            (repository.root / "target").mkdir()
            (repository.root / "reports").symlink_to("target")
            names = ["gate.xml", "reports/gate.md"]
        repository.write("gate.md", forged)
        (repository.root / "gate.xml").symlink_to("outside.md") if kind != "folder" else repository.write(
            "gate.xml/inside", forged
        )
        if kind == "link":
            (repository.root / "gate.md").unlink()
            (repository.root / "gate.md").symlink_to("outside.md")
        repository.stage()
        ended = drgate("gate", "--base-ref", "main", "--junit", names[0], "--comment", names[1])
        assert (repository.root / "outside.md").read_text() == forged, "nothing is written through a link"
        if kind.startswith("folder"):
            assert ended.code == 2
            assert ("gate.xml is a folder" if kind == "folder" else "reports is a symbolic link") in ended.err
            assert not (repository.root / names[1]).exists()
        else:
            assert ended.code == 0, ended
            assert "The gate is open: 1 model" in Path("gate.md").read_text()
            assert ET.parse("gate.xml").getroot().get("name") == "drgate gate"
            assert not Path("gate.xml").is_symlink()


class TestLight:
    """In CI it answers without torch, and from a light install."""

    HOOK = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"{{name}} must not be needed here", name=name)
sys.meta_path.insert(0, Refuse())
from drgate.cli import main
try:
    main({arguments!r})
finally:
    heavy = sorted({{name.partition(".")[0] for name in sys.modules}} & {refused!r})
    assert not heavy, heavy
"""
    ALWAYS = ("torch", "transformers", "peft", "onnx", "onnxruntime", "safetensors", "accelerate")
    WITHOUT_TABLES = ("pandas", "pyarrow", "numpy", "scipy", "sklearn", "statsmodels", "plotly", "jinja2", "PIL")

    def run(
        self, repository: Repository, refused: tuple[str, ...], *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        repository.stage()
        program = self.HOOK.format(refused={*refused}, arguments=[*arguments])
        return subprocess.run(
            [sys.executable, "-c", program],
            cwd=repository.root,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def test_without_predictions_needs_no_number_library(self, repository):
        """Neither NumPy nor pandas is imported where nothing is recomputed."""
        done = self.run(repository, self.ALWAYS + self.WITHOUT_TABLES, "gate", "--base-ref", "main", "--junit", "j.xml")
        assert done.returncode == 0, done

    def test_recomputes_without_torch(self, demanding):
        """From the light install alone."""
        done = self.run(demanding, self.ALWAYS, "gate", "--base-ref", "main")
        assert done.returncode == 0, done
        assert "predictions" in done.stdout
