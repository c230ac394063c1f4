"""Waivers in a repository, and the command that signs them."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from drgate.errors import CertificateError
from drgate.files import canonical_json
from drgate.gate.waiver import parse_waiver
from drgate.report import gate as drawn
from tests.support.repositories import (
    NOW,
    Repository,
    answer,
    answers,
    closing,
    of,
    said,
    waive,
)


class TestWaiver:
    """A signed waiver with a reason, a role and an end."""

    def easier(self, repository: Repository) -> None:
        repository.replace("checklists/site-a.yaml", "version: 1", "version: 2")
        repository.replace("checklists/site-a.yaml", "0.6}", "0.5}")
        repository.add_model("dr.pth", b"weights of the first model")

    def test_works_until_it_expires(self, repository):
        """The day before, and the moment it ends."""
        self.easier(repository)
        waive(repository, answer(repository), "spec:sensitivity:pdr")
        assert answer(repository, now=NOW + timedelta(days=29)).exit_code == 0
        report = answer(repository, now=NOW + timedelta(days=30))
        assert closing(report)["spec:sensitivity:pdr"] == "FAIL"
        assert "expired on 2026-03-31" in said(report)

    def test_waived_line_is_never_shown_as_passed(self, repository):
        """Not in the merge, not after it, not in any format, however long ago."""
        self.easier(repository)
        waive(repository, answer(repository), "spec:sensitivity:pdr")
        for moment in (NOW, NOW + timedelta(days=3000)):
            report = answer(repository, now=moment)
            assert report.exit_code == 0, said(report)
            assert of(report, "spec:sensitivity:pdr").status == "WAIVED"
            line = of(report, "sensitivity:pdr")
            assert (line.group, line.status) == ("models/dr.pth", "WAIVED")
            assert "Waived by clinical" in line.reason
            assert "bridging" in line.reason
            assert "2 waived" in report.headline
            cases = {case.get("name"): case for case in ET.fromstring(drawn.junit(report)).iter("testcase")}
            assert cases["sensitivity:pdr"].find("skipped") is not None
            assert "~ Waived" in drawn.markdown(report)
            repository.merge()

    def test_restored_rule_is_waived_no_longer(self, repository):
        """Where the line stands as it was before, nothing is waived."""
        self.easier(repository)
        waive(repository, answer(repository), "spec:sensitivity:pdr")
        repository.merge()
        repository.replace("checklists/site-a.yaml", "version: 2", "version: 3")
        repository.replace("checklists/site-a.yaml", '0.5}\n  - {id: "spec', '0.6}\n  - {id: "spec')
        repository.add_model("dr.pth", b"weights of the first model")
        assert not [f for f in answer(repository).findings if f.status == "WAIVED"]

    @pytest.mark.parametrize("gone", [False, True])
    def test_is_not_washed_off_by_a_hair(self, repository, gone):
        """Raised a little, or dropped and asked again for next to nothing: not what was waived away."""
        line = '  - {id: "sensitivity:pdr", at_least: %s}\n'
        repository.replace("checklists/site-a.yaml", "version: 1", "version: 2")
        repository.replace("checklists/site-a.yaml", line % 0.6, "" if gone else line % 0.5)
        repository.add_model("dr.pth", b"weights of the first model")
        waive(repository, answer(repository), "spec:sensitivity:pdr")
        repository.merge()
        repository.replace("checklists/site-a.yaml", "version: 2", "version: 3")
        after = '  - {id: "specificity:no_dr"'
        repository.replace("checklists/site-a.yaml", after if gone else line % 0.5, (line % 0.5001) + after * gone)
        repository.add_model("dr.pth", b"weights of the first model")
        report = answer(repository)
        assert report.exit_code == 0, said(report)
        assert of(report, "spec:sensitivity:pdr").status == of(report, "sensitivity:pdr").status == "WAIVED"

    def test_of_deciding_on_estimates_does_not_open_the_gate(self, repository):
        """A criterion that is only observed closes the gate until it is waived itself."""
        repository.replace("checklists/site-a.yaml", "version: 1", "version: 2\nevidence: {decide_on: point}")
        repository.add_model("dr.pth", b"weights of the first model")
        report = answer(repository)
        waive(repository, report, *(id for id in closing(report) if id.startswith("spec:")))
        report = answer(repository)
        criteria = ("accuracy", "sensitivity:pdr", "specificity:no_dr")
        assert report.exit_code == 3
        assert {of(report, name).status for name in criteria} == {"OBSERVED"}
        waive(repository, report, *closing(report))
        report = answer(repository)
        assert report.exit_code == 0, said(report)
        assert {of(report, name).status for name in criteria} == {"WAIVED"}

    def test_none_is_needed_for_the_bootstrap(self, repository):
        """It decides nothing, also not kappa."""
        repository.replace("checklists/site-a.yaml", "resamples: 1000", "resamples: 5000")
        repository.replace("checklists/site-a.yaml", "criteria:", "criteria:\n  - {id: quadratic_kappa, at_least: 0.2}")
        repository.replace("checklists/site-a.yaml", "version: 1", "version: 2")
        repository.add_model("dr.pth", b"weights of the first model")
        repository.merge()
        repository.replace("checklists/site-a.yaml", "resamples: 5000", "resamples: 5001")
        repository.replace("checklists/site-a.yaml", "version: 2", "version: 3")
        repository.add_model("dr.pth", b"weights of the first model")
        report = answer(repository)
        assert report.exit_code == 0, said(report)
        assert {of(report, name).status for name in ("quadratic_kappa", "accuracy")} == {"PASS"}

    def test_covers_one_thing_only(self, repository):
        """A lower threshold than the one that was waived is not covered, nor is another line."""
        self.easier(repository)
        waive(repository, answer(repository), "spec:sensitivity:pdr")
        repository.replace("checklists/site-a.yaml", '0.5}\n  - {id: "spec', '0.4}\n  - {id: "spec')
        assert closing(answer(repository))["spec:sensitivity:pdr"] == "FAIL"

    @pytest.mark.parametrize("who", ["engineering", "stranger", "forger"])
    def test_of_who_may_not(self, repository, who):
        """Another role, a stranger in the name of the role, a forger in the name of the key."""
        self.easier(repository)
        keys = repository.keys
        keys["forger"] = replace(keys["clinical"], _key=keys["stranger"]._key)
        role = "engineering" if who == "engineering" else "clinical"
        waive(repository, answer(repository), "spec:sensitivity:pdr", role=role, key=keys[who])
        report = answer(repository)
        assert closing(report)["spec:sensitivity:pdr"] == "FAIL"
        if who == "engineering":
            assert "Waived only by engineering" in said(report)
        else:
            assert ".json does not count: no key that the base branch trusts for clinical" in said(report)
            (id,) = [id for id in closing(report) if id.startswith("waiver:")]
            assert closing(report)[id] == "REFUSED", "once merged it would be shown for ever as the role's"

    def test_of_a_key_that_the_change_itself_adds(self, repository):
        """Trust comes from the base branch: a change cannot bring its own signer."""
        self.easier(repository)
        repository.write("keys/new.pub", (repository.root / "secret/stranger.pub").read_bytes())
        repository.replace("drgate.toml", '"keys/clinical.pub"]', '"keys/clinical.pub", "keys/new.pub"]')
        report = answer(repository)
        ids = ("spec:sensitivity:pdr", "policy:trusted_keys.clinical")
        waive(repository, report, *ids, key=repository.keys["stranger"])
        assert {*ids} <= {*closing(answer(repository))}
        waive(repository, report, *ids)
        assert answer(repository).exit_code == 0

    def test_needs_every_role_that_a_certificate_needs(self, repository):
        """Where two must sign, one cannot waive."""
        repository.replace("drgate.toml", '["clinical"]', '["clinical", "engineering"]')
        evaluation, _ = repository.judge({"dr.pth": b"weights of the first model"})
        repository.certify("certificates/second", evaluation, None, roles=("engineering",))
        repository.merge()
        repository.replace("drgate.toml", "max_age_days = 365", "max_age_days = 366")
        report = answer(repository)
        waive(repository, report, "policy:max_age_days")
        assert (
            "Waived only by clinical; 2 of the required roles" in of(answer(repository), "policy:max_age_days").reason
        )
        waive(repository, report, "policy:max_age_days", role="engineering")
        assert answer(repository).exit_code == 0

    def test_of_a_models_failed_line(self, repository):
        """The line stays failed, is shown as waived, and closes the gate again when the waiver ends."""
        repository.add_model("dr.pth", b"worse weights", table=answers(2, right=0.75))
        report = answer(repository)
        ids = [id for id in closing(report) if id.startswith("criterion:")]
        assert ids
        waive(repository, report, *ids)
        report = answer(repository)
        assert report.exit_code == 0, said(report)
        assert {f.status for f in report.findings if f.id in ids} == {"WAIVED"}
        repository.merge()
        assert {*closing(answer(repository, now=NOW + timedelta(days=31)))} == {*ids}

    def test_of_one_model_is_not_for_the_next(self, repository):
        """It names the statement by its digest."""
        repository.add_model("dr.pth", b"worse weights", table=answers(2, right=0.75))
        report = answer(repository)
        waive(repository, report, *closing(report))
        repository.add_model("dr.pth", b"other weights", table=answers(3, right=0.75))
        assert answer(repository).exit_code != 0

    def test_once_merged_is_not_removed(self, repository):
        """What was waived stays visible."""
        self.easier(repository)
        waive(repository, answer(repository), "spec:sensitivity:pdr")
        repository.merge()
        for path in (repository.root / "waivers").iterdir():
            path.unlink()
        report = answer(repository)
        assert report.exit_code == 1
        assert "was removed" in said(report)
        assert of(report, "sensitivity:pdr").status == "WAIVED"

    def test_every_byte_is_signed_or_fixed(self, repository):
        """Each byte flipped, one after the other: never a waiver with that signature."""
        self.easier(repository)
        waiver = waive(repository, answer(repository), "spec:sensitivity:pdr")
        trusted = {"clinical": [repository.keys["clinical"].public]}
        whole = waiver.to_bytes()
        assert parse_waiver(whole, "it").signed_by(trusted) is not None
        for at in range(0, len(whole), 3):
            changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
            with contextlib.suppress(CertificateError):
                assert parse_waiver(changed, "it").signed_by(trusted) is None, at

    def test_is_no_certificate(self, repository):
        """A signature over the one is none over the other: the payload type is part of what is signed."""
        self.easier(repository)
        waiver = waive(repository, answer(repository), "spec:sensitivity:pdr")
        other = canonical_json({**json.loads(waiver.to_bytes()), "payloadType": "application/vnd.in-toto+json"})
        with pytest.raises(CertificateError):
            parse_waiver(other, "it")

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda envelope, payload: envelope.pop("payload"), "has no payload"),
            (lambda envelope, payload: envelope.update(payload="%"), "base64"),
            (lambda envelope, payload: envelope.update(signatures=[]), "signatures"),
            (lambda envelope, payload: envelope.update(signatures=3), "signatures"),
            (lambda envelope, payload: envelope["signatures"][0].update(sig="AA=="), "signature"),
            (lambda envelope, payload: envelope["signatures"][0].update(keyid=7), "keyid"),
            (lambda envelope, payload: envelope.update(more=1), "more is not a known key"),
            (lambda envelope, payload: payload.update(format="drgate waiver 2"), "format"),
            (lambda envelope, payload: payload.update(covers=[]), "covers"),
            (lambda envelope, payload: payload.update(covers=[3]), "covers"),
            (lambda envelope, payload: payload["covers"][0].update(was="", now=""), "without a digest"),
            (lambda envelope, payload: payload["covers"][0].update(now="sha256:A"), "now"),
            (lambda envelope, payload: payload.update(expires="9-01-01T00:00:00Z"), "expires"),
            (lambda envelope, payload: payload.update(reason=""), "reason"),
            (lambda envelope, payload: payload.update(role="Boss\n"), "role"),
            (lambda envelope, payload: payload.pop("role"), "has no role"),
        ],
    )
    def test_of_another_form_is_refused_in_a_sentence(self, repository, change, says):
        """That names the place, and no exception of Python."""
        self.easier(repository)
        envelope = json.loads(waive(repository, answer(repository), "spec:sensitivity:pdr").to_bytes())
        payload = json.loads(base64.b64decode(envelope["payload"]))
        before = canonical_json(payload)
        change(envelope, payload)
        if canonical_json(payload) != before:
            envelope["payload"] = base64.b64encode(canonical_json(payload)).decode()
        with pytest.raises(CertificateError, match=says) as refused:
            parse_waiver(canonical_json(envelope), "it")
        assert not re.search(r"Error|\n|'signatures'|NoneType|argument", str(refused.value))


class TestWaiveCommand:
    """`drgate waive`."""

    def test_waiver_that_could_not_count_is_not_signed(self, repository, drgate, monkeypatch):
        """A role that the policy does not have or require, a key of another role; then, who is still to sign."""
        monkeypatch.chdir(repository.root)
        repository.replace("drgate.toml", "= 365", "= 366")
        repository.stage()

        def command(role: str, key: str) -> Any:
            return drgate(
                "waive",
                "policy:max_age_days",
                "--base-ref",
                "main",
                "--reason",
                "a year and a day",
                "--expires",
                "2999-01-01",
                "--role",
                role,
                "--key",
                f"secret/{key}.pem",
            )

        for role, key, says in (
            ("boss", "clinical", "The role boss cannot waive: the policy of main requires clinical."),
            ("engineering", "engineering", "The role engineering cannot waive: the policy of main requires clinical."),
            ("clinical", "engineering", "is not trusted for clinical by the policy of main"),
        ):
            ended = command(role, key)
            assert ended.code == 2
            assert says in ended.err
        assert not (repository.root / "waivers").exists()
        repository.replace("drgate.toml", "= 366", "= 365")
        repository.replace("drgate.toml", '["clinical"]\n', '["clinical", "engineering"]\n')
        repository.merge()
        repository.replace("drgate.toml", "= 365", "= 366")
        repository.stage()
        assert "1 more of the required roles must also waive it: engineering." in command("clinical", "clinical").err
        repository.stage()
        assert "must also waive it" not in command("engineering", "engineering").err

    def test_waive_command(self, repository, drgate, monkeypatch):
        """As the gate itself suggests it."""
        monkeypatch.chdir(repository.root)
        repository.replace("drgate.toml", "= 365", "= 366")
        repository.stage()
        ended = drgate("gate", "--base-ref", "main")
        assert "drgate waive policy:max_age_days --base-ref main" in ended.out
        command = [
            "waive",
            "policy:max_age_days",
            "--base-ref",
            "main",
            "--role",
            "clinical",
            "--reason",
            "a year and a day",
        ]
        ended = drgate(*command, "--key", "keys/../secret/clinical.pem", "--expires", "2999-01-01")
        assert ended.code == 0, ended
        repository.stage()
        ended = drgate("gate", "--base-ref", "main")
        assert ended.code == 0, ended
        assert "~ Waived: policy:max_age_days" in ended.out
        assert drgate(*command, "--expires", "2999-01-01").code == 2
        assert drgate(*command, "--key", "secret/clinical.pem", "--expires", "2001-01-01").code == 2
        assert (
            drgate("waive", "nothing", *command[2:], "--key", "secret/clinical.pem", "--expires", "2999-01-01").code
            == 2
        )
