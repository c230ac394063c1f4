"""The certificate: one byte form, nothing in it that is not signed, nothing stated that does not follow."""

from __future__ import annotations

import base64
import hmac
import json
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

from drgate.certificate.envelope import MAX_BYTES, pre_authentication
from drgate.certificate.keys import (
    CommandKey,
    PrivateKey,
    generate_key,
    load_private_key,
    load_public_key,
    parse_private_key,
)
from drgate.certificate.sign import certify, countersign, countersignature
from drgate.certificate.statement import (
    Certificate,
    Statement,
    make_statement,
    parse_certificate,
    parse_statement,
    read_certificate,
    reference,
    statement_bytes,
)
from drgate.errors import CertificateError, UsageError
from drgate.evaluation import (
    Audit,
    Baseline,
    CutOffs,
    Evaluation,
    File,
    HeldAgainst,
    Look,
    Model,
    Reference,
    Spend,
    Subject,
    TestSet,
    Training,
    read_as,
)
from drgate.files import canonical_json
from drgate.report import words
from tests.support.evaluations import CONTENT, THIS_RUN, criterion, digest_of, evaluation, file_entry

ORDER = 2**256 - 2**224 + 2**192 - 0x4319055258E8617B0C46353D039CDAAF  # of P-256, in the shape FIPS 186 prints it


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return generate_key(tmp_path_factory.mktemp("keys") / "clinical", None)


@pytest.fixture(scope="module")
def key(keys: tuple[Path, Path]) -> PrivateKey:
    return load_private_key(keys[0])


@pytest.fixture(scope="module")
def signed(key: PrivateKey) -> bytes:
    certificate = certify(evaluation(), key)[1]
    assert certificate is not None
    return certificate


def accepted(data: bytes, key: PrivateKey) -> bool:
    """Whether these bytes parse and the key's signature holds over them."""
    try:
        certificate = parse_certificate(data, "x")
    except CertificateError:
        return False
    return key.public.verifies(certificate.signature, pre_authentication(certificate.statement.data))


def every_change(plain: Any) -> Iterator[Any]:
    """Copies of a JSON value, each with one leaf another, one entry gone, or one more."""
    if isinstance(plain, dict):
        for key, value in plain.items():
            yield {name: other for name, other in plain.items() if name != key}
            yield from ({**plain, key: changed} for changed in every_change(value))
        yield {**plain, "more": 1}
    elif isinstance(plain, list):
        for i, value in enumerate(plain):
            yield plain[:i] + plain[i + 1 :]
            yield from ([*plain[:i], changed, *plain[i + 1 :]] for changed in every_change(value))
        yield [*plain, 1]
    elif isinstance(plain, bool) or plain is None:
        yield not plain
    elif isinstance(plain, int | float):
        yield plain + 1
    else:
        yield plain + "x"


def model_of(*files: Subject) -> Model:
    return Model("checkpoint", "a", files, THIS_RUN)


def record_of(plain: dict[str, Any]) -> Training:
    return read_as(Training, plain, "the record", expected="a record")


class TestStatement:
    def test_has_the_fields_of_an_in_toto_test_result(self):
        """Statement v1 and test-result v0.1: the field names, types and values that those documents fix."""
        content = json.loads(statement_bytes(evaluation()))
        assert set(content) == {"_type", "subject", "predicateType", "predicate"}
        assert content["_type"] == "https://in-toto.io/Statement/v1"
        assert content["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
        predicate = content["predicate"]
        assert set(predicate) - {"drgate"} == {"result", "configuration", "passedTests", "warnedTests", "failedTests"}
        assert predicate["result"] in ("PASSED", "WARNED", "FAILED")
        for name in ("passedTests", "warnedTests", "failedTests"):
            assert all(isinstance(test, str) for test in predicate[name])
        assert predicate["configuration"]
        for descriptor in (*content["subject"], *predicate["configuration"]):
            assert set(descriptor) <= {
                "name",
                "uri",
                "digest",
                "content",
                "downloadLocation",
                "mediaType",
                "annotations",
            }
            assert re.fullmatch(r"[0-9a-f]{64}", descriptor["digest"]["sha256"])

    def test_subjects_are_the_files_of_the_model(self):
        """Every file, by SHA-256 and MD5, with its size."""
        files = [file_entry("model.onnx", b"graph"), file_entry("model.onnx.data", b"tensors", "data")]
        content = json.loads(statement_bytes(evaluation(model=Model("onnx", "model.onnx", tuple(files), THIS_RUN))))
        assert content["subject"] == [
            {
                "name": file.name,
                "digest": {"sha256": file.sha256, "md5": file.md5},
                "annotations": {"size": file.size, "role": file.role},
            }
            for file in files
        ]

    @pytest.mark.parametrize(
        "name",
        ["/etc/passwd", "..", ".", "", "a/b.pth", "a\\b.pth", "C:b.pth", " b.pth", "b.pth ", "b\u200b.pth", "b" * 256],
    )
    def test_subjects_have_bare_names(self, name):
        """A name that is a path, or that people cannot tell from another, is refused where it is read."""
        plain = evaluation(model=model_of(file_entry("a", b"1"))).to_json()
        plain["model"]["files"][0]["name"] = name
        with pytest.raises(CertificateError, match=r"model\.files\.0\.name"):
            Evaluation.from_json(plain, "e.json", CertificateError)

    def test_configuration_names_what_it_was_run_with(self):
        """Spec, manifest, predictions and, where there was one, baseline."""
        content = json.loads(statement_bytes(evaluation(training=Training(baseline=Baseline(f"sha256:{'3' * 64}")))))
        found = {entry["name"]: entry["digest"]["sha256"] for entry in content["predicate"]["configuration"]}
        assert found == {
            "spec small version 2": digest_of(CONTENT).removeprefix("sha256:"),
            "manifest": "1" * 64,
            "predictions": "2" * 64,
            "baseline": "3" * 64,
        }

    def test_configuration_names_what_further_was_given(self):
        """Operating point, audit, sealed grades, the look's line, earlier statements, parameters: each by digest."""
        digests = [f"sha256:{digit * 64}" for digit in "456789a"]
        base = evaluation()
        made = evaluation(
            data=replace(
                base.data,
                operating_point=CutOffs("", "probabilities", (0.5, 0.5, 0.5, 0.5), {}, {}, {}, digests[0]),
                audit=Audit(digests[1], ()),
                grades=File("kept.csv", "7" * 64),
            ),
            look=replace(base.look, line=digests[2]),
            model=replace(base.model, previous=Reference(digests[4], "an earlier one", "FAIL", digests[0], {})),
            training=Training(parameters_digest=digests[5]),
        )
        found = {
            entry["name"]: (entry["digest"]["sha256"][0], entry["annotations"]["digest_of"])
            for entry in json.loads(statement_bytes(made))["predicate"]["configuration"]
        }
        assert found == {
            "spec small version 2": (digest_of(CONTENT)[7], "content"),
            "manifest": ("1", "content"),
            "grades": ("7", "file"),
            "predictions": ("2", "content"),
            "operating point": ("4", "content"),
            "audit": ("5", "content"),
            "line of the look": ("6", "content"),
            "previous statement": ("8", "content"),
            "training parameters": ("9", "content"),
        }

    def test_without_an_audit_none_is_named(self):
        names = [entry["name"] for entry in json.loads(statement_bytes(evaluation()))["predicate"]["configuration"]]
        assert "audit" not in names

    def test_states_the_run_and_its_lineage(self):
        """Attempt, parameters, commit, how it ended and what it cost; the parent; what is known of ancestors."""
        parent = {"how": "init_from", "sha256": "a" * 64, "tensor_digest": f"sha256:{'b' * 64}", "epoch": 7}
        training = {
            "attempt": "attempt-3",
            "parameters_digest": f"sha256:{'c' * 64}",
            "status": "finished",
            "git_commit": {"commit": "d" * 40, "modified": False},
            "spend": {"usd": 3.5},
            "selected_epoch": 14,
            "history": [{"epoch": 1, "val_accuracy": 0.5}],
            "parent": parent,
            "lineage": {"training_sets": "known", "why": "", "pretraining": "declared"},
        }
        said = json.loads(statement_bytes(evaluation(training=record_of(training))))["predicate"]["drgate"]
        short = ("attempt", "parameters_digest", "status", "git_commit", "selected_epoch", "parent")
        assert said["training"] == {key: training[key] for key in short} | {
            "spend": {"usd": 3.5, "earlier_attempts": 0}
        }
        assert said["lineage"] == training["lineage"]

    def test_silence_about_the_lineage_is_unknown(self):
        """A record without it, no record, a foreign table: unknown, and why."""
        for changes, why in (
            ({"training": Training(status="finished")}, "the training record does not say."),
            ({"training": Training(missing="the model carries no record.")}, "the model carries no record."),
            ({"model": replace(evaluation().model, kind="predictions table")}, "does not say which model made it"),
        ):
            said = json.loads(statement_bytes(evaluation(**changes)))["predicate"]["drgate"]["lineage"]
            assert (said["training_sets"], said["pretraining"]) == ("unknown", "unknown")
            assert why in said["why"]
            assert "parent" not in said

    @pytest.mark.parametrize("role", ["parent", "previous"])
    def test_states_what_changed_against_an_earlier_certificate(self, role):
        """By line: what came out otherwise, what is new, what is no longer asked; the same lines are left out."""
        lines = (criterion("accuracy", "PASS"), criterion("cost", "PASS"), criterion("stability", "PASS"))
        before = make_statement(evaluation(criteria=lines))
        now = (criterion("accuracy", "PASS"), criterion("cost", "NOT_ASSESSED"), criterion("auc:pdr", "PASS"))
        model = replace(evaluation().model, **{role: reference(before)})
        made = evaluation(verdict="INSUFFICIENT", criteria=now, model=model)
        found = json.loads(statement_bytes(made))["predicate"]["drgate"]["changes"]
        passed = {"status": "PASS", "k": 95, "n": 100, "value": 0.95}
        assert found["against"] == before.digest
        assert found["verdict"] == {"from": "PASS", "to": "INSUFFICIENT"}
        assert (found["same_spec"], found["same_test_set"]) == (True, True)
        assert found["relation"] == {"parent": "exported from", "previous": "compared with"}[role]
        assert found["criteria"] == {
            "cost": {"from": passed, "to": {"status": "NOT_ASSESSED"}},
            "stability": {"from": passed},
            "auc:pdr": {"to": passed},
        }
        assert "changes" not in before.content["predicate"]["drgate"]

    def test_names_intended_use(self):
        use = {"population": "adults with diabetes", "role": "assist"}
        content = {**CONTENT, "intended_use": use}
        checklist = HeldAgainst("small", 2, digest_of(content), content)
        assert json.loads(statement_bytes(evaluation(spec=checklist)))["predicate"]["drgate"]["intended_use"] == use

    @pytest.mark.parametrize(
        ("verdict", "criteria", "result", "passed", "warned", "failed", "headline"),
        [
            ("PASS", [("a", "PASS", True)], "PASSED", ["a"], [], [], "M meets C version 2 on T."),
            (
                "PASS",
                [("a", "PASS", True), ("b", "FAIL", False)],
                "WARNED",
                ["a"],
                ["b"],
                [],
                "M meets C version 2 on T, with warnings.",
            ),
            (
                "PASS",
                [("a", "PASS", True), ("b", "NOT_ASSESSED", False)],
                "PASSED",
                ["a"],
                [],
                [],
                "M meets C version 2 on T.",
            ),
            (
                "OBSERVED",
                [("a", "OBSERVED", True), ("b", "PASS", True)],
                "FAILED",
                ["b"],
                [],
                ["a"],
                "M is observed to meet C version 2 on T; this does not show it.",
            ),
            (
                "FAIL",
                [("a", "FAIL", True), ("b", "PASS", True)],
                "FAILED",
                ["b"],
                [],
                ["a"],
                "M does not meet C version 2 on T.",
            ),
            (
                "FAIL",
                [("a", "MISSED", True), ("b", "FAIL", False)],
                "FAILED",
                [],
                ["b"],
                ["a"],
                "M misses C version 2 on T; it is not shown that M is below the rule.",
            ),
            (
                "FAIL",
                [("a", "MISSED", True), ("b", "FAIL", True)],
                "FAILED",
                [],
                [],
                ["a", "b"],
                "M does not meet C version 2 on T.",
            ),
            (
                "INSUFFICIENT",
                [("a", "INSUFFICIENT", True)],
                "FAILED",
                [],
                [],
                ["a"],
                "It is not shown that M meets C version 2 on T: the evidence is insufficient.",
            ),
            (
                "INSUFFICIENT",
                [("a", "NOT_ASSESSED", True)],
                "FAILED",
                [],
                [],
                ["a"],
                "It is not shown that M meets C version 2 on T: the evidence is insufficient.",
            ),
        ],
    )
    def test_says_of_each_verdict(self, verdict, criteria, result, passed, warned, failed, headline):
        """in-toto's three results, the three lists of tests, and the headline word for word, for each verdict."""
        lines = tuple(
            replace(criterion(name, "FAIL", required=required), shown=False)
            if status == "MISSED"
            else criterion(name, status, required=required)
            for name, status, required in criteria
        )
        point = {**CONTENT, "name": "C", "evidence": {"decide_on": "point" if verdict == "OBSERVED" else "bound"}}
        made = evaluation(
            verdict=verdict,
            criteria=lines,
            spec=HeldAgainst("C", 2, digest_of(point), point),
            model=replace(evaluation().model, name="M"),
            data=replace(evaluation().data, name="T"),
        )
        predicate = json.loads(statement_bytes(made))["predicate"]
        assert predicate["result"] == result
        assert (predicate["passedTests"], predicate["warnedTests"], predicate["failedTests"]) == (
            passed,
            warned,
            failed,
        )
        assert predicate["drgate"]["headline"] == headline
        assert words.headline(made) == headline

    def test_of_format_2_is_refused_by_name(self):
        content = json.loads(statement_bytes(evaluation()))
        content["predicate"]["drgate"]["format"] = 2
        with pytest.raises(
            CertificateError, match=r"is a statement of format 2; this drgate reads format 3\. Evaluate"
        ):
            parse_statement(canonical_json(content), "statement.json")

    def test_same_evaluation_same_bytes(self):
        """No clock, no order of keys, no chance."""
        one = evaluation()
        other = replace(one, metrics=dict(reversed(one.metrics.items())))
        assert statement_bytes(one) == statement_bytes(other)

    def test_round_trip(self):
        """What was stated can be read, and is the evaluation that was stated."""
        data = statement_bytes(evaluation())
        statement = parse_statement(data, "statement.json")
        assert statement.evaluation == evaluation()
        assert statement.data == data == canonical_json(statement.content)
        assert statement.subjects == {"best_model.pth": file_entry("best_model.pth", b"weights").sha256}

    def test_of_another_tool_version_is_read(self):
        """The rebuild uses the version that the statement records, not the reader's."""
        older = evaluation(software={"drgate": "0.0.7"})
        assert parse_statement(statement_bytes(older), "x").evaluation == older

    @pytest.mark.parametrize(
        ("verdict", "status", "required"),
        [
            ("PASS", "INSUFFICIENT", True),
            ("PASS", "PASS", False),
            ("INSUFFICIENT", "FAIL", True),
            ("FAIL", "PASS", True),
        ],
    )
    def test_verdict_that_does_not_follow_is_refused(self, verdict, status, required):
        """FAIL if a required criterion failed, else INSUFFICIENT if one is not met or none is required, else PASS."""
        with pytest.raises(CertificateError, match="required criteria make it"):
            make_statement(evaluation(verdict=verdict, criteria=(criterion("a", status, required=required),)))

    @pytest.mark.parametrize(
        "changes",
        [
            {"model": model_of()},
            {"model": model_of(file_entry("a", b"1"), file_entry("a", b"2"))},
            {"model": model_of(replace(file_entry("a", b"1"), sha256="sha256:" + "0" * 64))},
            {"model": model_of(file_entry("a\n::error::b", b"1"))},
            {"data": TestSet("\x1b[2Ja")},
            {"predictions_digest": ""},
            {"predictions_digest": "md5:" + "0" * 32},
            {"software": {}},
            {"look": Look(1, 1, "")},
            {"look": Look(1, 1, "2026-01-02")},
            {"look": Look(1, 1, "2026-02-30T00:00:00Z")},
            {"look": Look(1, 1, "0001-01-01T00:00:00Z")},
            {"spec": replace(evaluation().spec, content={**CONTENT, "valid_days": 10**12})},
            {"spec": replace(evaluation().spec, content={**CONTENT, "valid_days": "90"})},
            {"training": Training(spend=Spend(usd=float("nan")))},
        ],
        ids=[
            "none",
            "twice",
            "prefixed",
            "newline",
            "escape",
            "predictions",
            "digest",
            "version",
            "time",
            "day",
            "calendar",
            "year",
            "forever",
            "text",
            "nan",
        ],
    )
    def test_without_clear_subjects_is_refused(self, changes: dict[str, Any]):
        """A certificate names files by digest, in names that print; otherwise there is none."""
        with pytest.raises(CertificateError):
            make_statement(evaluation(**changes))


class TestMessages:
    @pytest.mark.parametrize(
        ("edit", "says"),
        [
            (lambda made: made["predicate"].pop("drgate"), "is not a statement of drgate"),
            (lambda made: made["predicate"]["drgate"]["evaluation"].update(software={}), "version of drgate"),
            (lambda made: made["predicate"]["drgate"]["evaluation"].update(predictions_digest="x"), "digest of"),
            (
                lambda made: made["predicate"]["drgate"]["evaluation"]["model"].update(files=[]),
                "not one file in the role model",
            ),
            (lambda made: made["predicate"]["drgate"]["evaluation"].update(mood="good"), "mood is not a known key"),
            (lambda made: made["predicate"]["drgate"]["evaluation"]["units"].update(eye={"a": 1}), "units.eye"),
        ],
    )
    def test_each_names_the_file_and_no_name_of_python(self, edit, says, tmp_path: Path):
        """Whatever is wrong inside a statement, the sentence says in which file."""
        made = make_statement(evaluation())
        edit(made.content)
        path = tmp_path / "of_site_a.json"
        path.write_bytes(canonical_json(made.content))
        with pytest.raises(CertificateError) as raised:
            read_certificate(path)
        assert str(raised.value).startswith(str(path))
        assert says in str(raised.value)
        assert not re.search(r"Error|function-|dict\[|keyword|Unexpected", str(raised.value))

    def test_an_evaluation_is_not_a_certificate(self, tmp_path: Path):
        path = tmp_path / "evaluation.json"
        path.write_text(json.dumps(evaluation().to_json()))
        with pytest.raises(CertificateError, match=r"is an evaluation, not a certificate; expected certificate\.json"):
            read_certificate(path)


class TestEdited:
    """Statements that somebody wrote again, in canonical form, saying what does not follow."""

    @staticmethod
    def edited(edit) -> bytes:
        content = json.loads(statement_bytes(evaluation()))
        edit(content)
        return canonical_json(content)

    @pytest.mark.parametrize(
        "edit",
        [
            lambda c: c["predicate"].update(result="WARNED"),
            lambda c: c["predicate"].update(passedTests=[]),
            lambda c: c["predicate"].update(url="https://example.org"),
            lambda c: c["predicate"]["drgate"].update(headline="meets everything"),
            lambda c: c["predicate"]["drgate"].update(not_evidence_for=[]),
            lambda c: c["predicate"]["drgate"].update(note=1),
            lambda c: c["predicate"]["drgate"].update(version=1),
            lambda c: c["predicate"]["drgate"].update(format=1),
            lambda c: c["predicate"]["drgate"].update(format=True),
            lambda c: c["predicate"]["drgate"]["evaluation"].update(verdict="FAIL"),
            lambda c: c["predicate"]["drgate"]["evaluation"].update(verdict="GREAT"),
            lambda c: c["predicate"]["drgate"]["evaluation"].update(extra=1),
            lambda c: c["predicate"]["drgate"]["evaluation"].pop("look"),
            lambda c: c["predicate"]["drgate"]["evaluation"].update(no_output="00000"),
            lambda c: c["predicate"]["drgate"]["evaluation"]["metrics"]["accuracy"].update(k="95"),
            lambda c: c["predicate"]["drgate"]["evaluation"]["metrics"]["accuracy"].update(status="assumed"),
            lambda c: c["predicate"]["drgate"]["evaluation"]["metrics"].update(accuracy=[]),
            lambda c: c["subject"][0]["digest"].update(sha256="0" * 64),
            lambda c: c["subject"][0].update(name="other.pth"),
            lambda c: c["subject"].append(c["subject"][0]),
            lambda c: c.update(predicateType="https://example.org/v1"),
            lambda c: c.update(predicate=[]),
            lambda c: c.clear(),
        ],
    )
    def test_is_refused(self, edit):
        """Each of the stated things is rebuilt from the evaluation inside and compared."""
        with pytest.raises(CertificateError):
            parse_statement(self.edited(edit), "statement.json")

    @pytest.mark.parametrize(
        "data",
        [b"", b"{}", b"[]", b"null", b"\xff", b'{"_type":1e999}', b"[" * 100_000, b'{"_type":"\\ud800"}', b"1" * 5000],
        ids=["empty", "object", "list", "null", "not utf-8", "infinite", "deep", "surrogate", "long number"],
    )
    def test_hostile_json_is_refused_plainly(self, data: bytes):
        """Whatever the bytes, the answer is a sentence."""
        for parse in (parse_statement, parse_certificate):
            with pytest.raises(CertificateError):
                parse(data, "x")

    def test_infinite_number_inside_is_refused(self):
        """JSON that overflows to infinity has no canonical form."""
        data = statement_bytes(evaluation()).replace(b'"value":0.95', b'"value":1e999')
        with pytest.raises(CertificateError):
            parse_statement(data, "x")


class TestCertificate:
    def test_round_trip(self, signed: bytes, key: PrivateKey):
        """The parsed certificate writes the bytes it was parsed from, and holds the statement."""
        certificate = parse_certificate(signed, "certificate.json")
        assert certificate.to_bytes() == signed
        assert certificate.statement.data == statement_bytes(evaluation())
        assert certificate.key_id == key.public.id
        assert accepted(signed, key)

    def test_is_a_sigstore_bundle(self, signed: bytes, keys: tuple[Path, Path]):
        """Bundle v0.3 with a public-key hint: the SHA-256 of the key's SPKI, computed here by openssl."""
        bundle = json.loads(signed)
        der = subprocess.run(
            ["openssl", "pkey", "-pubin", "-in", keys[1], "-outform", "DER"], capture_output=True, check=True
        ).stdout
        digest = subprocess.run(["openssl", "dgst", "-sha256", "-r"], input=der, capture_output=True, check=True).stdout
        hint = digest.split()[0].decode()
        assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
        assert bundle["verificationMaterial"] == {"publicKey": {"hint": hint}}
        assert bundle["dsseEnvelope"]["payloadType"] == "application/vnd.in-toto+json"
        assert [signature["keyid"] for signature in bundle["dsseEnvelope"]["signatures"]] == [hint]

    def test_securesystemslib_verifies_it(self, signed: bytes, keys: tuple[Path, Path]):
        """A second DSSE library builds the same pre-authentication bytes and accepts the signature, but no edit."""
        bundle = json.loads(signed)
        public = serialization.load_pem_public_key(keys[1].read_bytes())
        trusted = SSlibKey.from_crypto(public, keyid=bundle["verificationMaterial"]["publicKey"]["hint"])
        envelope = Envelope.from_dict(bundle["dsseEnvelope"])
        assert envelope.pae() == pre_authentication(statement_bytes(evaluation()))
        assert list(envelope.verify([trusted], 1)) == [trusted.keyid]
        envelope.payload += b" "
        with pytest.raises(VerificationError):
            envelope.verify([trusted], 1)

    def test_openssl_verifies_it(self, signed: bytes, keys: tuple[Path, Path], tmp_path: Path):
        """`openssl dgst -sha256 -verify` accepts the signature over the pre-authentication bytes."""
        bundle = json.loads(signed)
        payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
        kind = b"application/vnd.in-toto+json"
        (tmp_path / "pae").write_bytes(b"DSSEv1 28 " + kind + b" " + str(len(payload)).encode() + b" " + payload)
        (tmp_path / "sig").write_bytes(base64.b64decode(bundle["dsseEnvelope"]["signatures"][0]["sig"]))
        command = ["openssl", "dgst", "-sha256", "-verify", keys[1], "-signature", tmp_path / "sig", tmp_path / "pae"]
        assert subprocess.run(command, capture_output=True).stdout == b"Verified OK\n"

    def test_the_documented_commands_verify_it(self, signed: bytes, keys: tuple[Path, Path], tmp_path: Path):
        """What docs/certificates.md says is enough for a stranger, run as it stands there; an edit is found out."""
        document = (Path(__file__).parents[2] / "docs" / "certificates.md").read_text()
        (recipe,) = re.findall(r"```sh\n(sed.*?)```", document, re.DOTALL)
        (tmp_path / "certificate.json").write_bytes(signed)
        (tmp_path / "clinical.pub").write_bytes(keys[1].read_bytes())
        run = {"args": ["sh", "-e", "-c", recipe], "cwd": tmp_path, "capture_output": True}
        assert subprocess.run(**run, check=True).stdout == b"Verified OK\n"
        assert (tmp_path / "statement.json").read_bytes() == statement_bytes(evaluation())
        edited = statement_bytes(evaluation(no_output=(0, 0, 0, 0, 1)))
        envelope = json.loads(signed)["dsseEnvelope"]
        other = signed.replace(envelope["payload"].encode(), base64.b64encode(edited))
        (tmp_path / "certificate.json").write_bytes(other)
        assert b"Verification failure" in subprocess.run(**run, check=False).stdout

    def test_same_evaluation_same_certificate(self, signed: bytes, key: PrivateKey):
        """Deterministic signatures (RFC 6979): certifying again changes no byte."""
        assert certify(evaluation(), key) == (statement_bytes(evaluation()), signed)

    def test_every_flipped_byte_is_refused(self, signed: bytes, key: PrivateKey):
        """No single byte can be changed: neither its lowest bit nor its case bit nor all bits."""
        survivors = [
            (i, mask)
            for i in range(len(signed))
            for mask in (0x01, 0x20, 0xFF)
            if accepted(signed[:i] + bytes([signed[i] ^ mask]) + signed[i + 1 :], key)
        ]
        assert survivors == []

    def test_every_field_changed_and_encoded_again_is_refused(self, signed: bytes, key: PrivateKey):
        """Whatever field of bundle or statement says something else, in whatever canonical form: no certificate."""
        bundle = json.loads(signed)
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        again = canonical_json(statement)
        assert base64.b64decode(bundle["dsseEnvelope"]["payload"]) == again

        def encoded(changed: Any) -> bytes:
            payload = base64.b64encode(canonical_json(changed)).decode()
            return canonical_json({**bundle, "dsseEnvelope": {**bundle["dsseEnvelope"], "payload": payload}})

        tried = [canonical_json(changed) for changed in every_change(bundle)]
        tried += [encoded(changed) for changed in every_change(statement)]
        assert len(tried) > 350
        assert [data for data in tried if accepted(data, key)] == []

    def test_unknown_algorithms_are_refused(self, signed: bytes, key: PrivateKey):
        """ECDSA on P-256 with SHA-256 alone: no field can name another, and no other signature has its form."""
        certificate = parse_certificate(signed, "x")
        data = pre_authentication(certificate.statement.data)
        p384 = ec.generate_private_key(ec.SECP384R1()).sign(data, ec.ECDSA(hashes.SHA384()))
        others = {
            "ed25519": ed25519.Ed25519PrivateKey.generate().sign(data),
            "p384": p384,
            "hmac": hmac.digest(b"public", data, "sha256"),
            "none": b"\0",
        }
        for name, signature in others.items():
            with pytest.raises(CertificateError, match="signature is not"):
                parse_certificate(replace(certificate, signature=signature).to_bytes(), name)
        bundle = json.loads(signed)
        for where in (bundle["dsseEnvelope"]["signatures"][0], bundle["dsseEnvelope"], bundle["verificationMaterial"]):
            where["alg"] = "none"
            assert not accepted(canonical_json(bundle), key)
            del where["alg"]
        assert accepted(canonical_json(bundle), key)

    def test_every_truncation_is_refused(self, signed: bytes, key: PrivateKey):
        """No proper beginning of a certificate is one."""
        assert not any(accepted(signed[:i], key) for i in range(len(signed)))

    @staticmethod
    def rewritten(signed: bytes) -> dict[str, bytes]:
        bundle = json.loads(signed)
        envelope = bundle["dsseEnvelope"]

        def with_envelope(**changes: Any) -> bytes:
            return canonical_json({**bundle, "dsseEnvelope": {**envelope, **changes}})

        def with_signature(**changes: Any) -> bytes:
            return with_envelope(signatures=[{**envelope["signatures"][0], **changes}])

        sig = base64.b64decode(envelope["signatures"][0]["sig"])
        r, s = utils.decode_dss_signature(sig)
        long_form = bytes([0x30, 0x81, len(sig) - 2]) + sig[2:]
        payload = base64.b64decode(envelope["payload"])
        hint = bundle["verificationMaterial"]["publicKey"]["hint"]
        return {
            "newline at the end": signed + b"\n",
            "byte order mark": b"\xef\xbb\xbf" + signed,
            "indented": json.dumps(bundle, indent=1).encode(),
            "duplicate key": signed.replace(b'{"dsseEnvelope"', b'{"mediaType":"x","dsseEnvelope"', 1),
            "duplicate key, same value": signed[:-1] + b',"mediaType":"' + bundle["mediaType"].encode() + b'"}',
            "escaped letter": signed.replace(b"mediaType", b"media\\u0054ype"),
            "unknown field": canonical_json({**bundle, "messageSignature": None}),
            "unsigned time stamp": canonical_json(
                {**bundle, "verificationMaterial": {**bundle["verificationMaterial"], "tlogEntries": []}}
            ),
            "unknown field of the envelope": with_envelope(note="x"),
            "unknown field of the signature": with_signature(cert="x"),
            "two signatures": with_envelope(signatures=[envelope["signatures"][0]] * 2),
            "no signature": with_envelope(signatures=[]),
            "empty signature": with_signature(sig=""),
            "other media type": canonical_json({**bundle, "mediaType": bundle["mediaType"].replace("0.3", "0.2")}),
            "other payload type": with_envelope(payloadType="application/json"),
            "key id in upper case": with_signature(keyid=hint.upper()),
            "hint in base64": canonical_json(
                {**bundle, "verificationMaterial": {"publicKey": {"hint": base64.b64encode(b"x" * 32).decode()}}}
            ),
            "no hint": canonical_json({**bundle, "verificationMaterial": {"publicKey": {}}}),
            "the other s": with_signature(sig=base64.b64encode(utils.encode_dss_signature(r, ORDER - s)).decode()),
            "s plus the order": with_signature(sig=base64.b64encode(utils.encode_dss_signature(r, s + ORDER)).decode()),
            "longer DER": with_signature(sig=base64.b64encode(long_form).decode()),
            "bytes after the signature": with_signature(sig=base64.b64encode(sig + b"\0").decode()),
            "white space in base64": with_envelope(payload=envelope["payload"] + "\n"),
            "url-safe base64": with_envelope(payload=base64.urlsafe_b64encode(payload).decode() + "_"),
            "payload re-encoded with spaces": with_envelope(payload=base64.b64encode(payload + b" ").decode()),
            "payload edited": with_envelope(
                payload=base64.b64encode(payload.replace(b"clinic-a", b"clinic-b")).decode()
            ),
            "payload of one more case": with_envelope(
                payload=base64.b64encode(statement_bytes(evaluation(no_output=(0, 0, 0, 0, 1)))).decode()
            ),
            "empty": b"",
            "the statement alone": payload,
        }

    def test_every_rewriting_is_refused(self, signed: bytes, key: PrivateKey):
        """Bytes that mean the same, or nearly, and bytes that say more than was signed: none is a certificate."""
        assert accepted(signed, key)
        assert [name for name, data in self.rewritten(signed).items() if accepted(data, key)] == []

    @pytest.mark.parametrize("spare", range(1, 4))
    def test_spare_base64_bits_are_refused(self, key: PrivateKey, spare: int):
        """Bits of the last base64 digit that decode to nothing must be zero."""
        digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        tried = 0
        for length in range(3):  # two of three neighbouring lengths need padding
            certificate = certify(evaluation(page_one=("a" * length,)), key)[1]
            assert certificate is not None
            payload = json.loads(certificate)["dsseEnvelope"]["payload"]
            if not payload.endswith("="):
                continue
            last = payload.rstrip("=")[-1]
            changed = chr(digits[digits.index(last.encode()) | spare])
            forged = payload.rstrip("=")[:-1] + changed + "=" * payload.count("=")
            assert base64.b64decode(forged) == base64.b64decode(payload)
            assert not accepted(certificate.replace(payload.encode(), forged.encode()), key)
            tried += 1
        assert tried == 2

    def test_swapped_signatures_are_refused(self, signed: bytes, key: PrivateKey):
        """The signature of one certificate does not hold in another by the same key."""
        other = certify(evaluation(look=Look(2, 2, "2026-02-02T00:00:00Z")), key)[1]
        assert other is not None
        swapped = replace(parse_certificate(signed, "x"), signature=parse_certificate(other, "y").signature)
        assert parse_certificate(swapped.to_bytes(), "z") == swapped
        assert not accepted(swapped.to_bytes(), key)

    def test_other_key_under_this_ones_name_is_refused(self, key: PrivateKey, tmp_path: Path):
        """A key id is a claim: only the signature proves it."""
        stranger = load_private_key(generate_key(tmp_path / "stranger", None)[0])
        forged = certify(evaluation(), PrivateKey(key.public, stranger._key))[1]
        assert forged is not None
        assert not accepted(forged, key)

    def test_reading_tells_signed_from_unsigned(self, signed: bytes, tmp_path: Path):
        """`statement.json` is read as a statement: it has no signature that could be trusted."""
        (tmp_path / "certificate.json").write_bytes(signed)
        (tmp_path / "statement.json").write_bytes(statement_bytes(evaluation()))
        assert isinstance(read_certificate(tmp_path / "certificate.json"), Certificate)
        assert isinstance(read_certificate(tmp_path / "statement.json"), Statement)

    def test_huge_file_is_refused_unread(self, tmp_path: Path):
        """A file of a gigabyte costs no gigabyte of memory."""
        with (tmp_path / "huge.json").open("wb") as handle:
            handle.write(b"{" * 4096)
            handle.truncate(1 << 30)
        with pytest.raises(CertificateError, match=f"larger than {MAX_BYTES >> 20} MB"):
            read_certificate(tmp_path / "huge.json")

    @pytest.mark.parametrize("name", ["missing.json", "."])
    def test_unreadable_file_is_one_sentence(self, tmp_path: Path, name: str):
        """A missing file and a folder are named, with what was expected."""
        with pytest.raises(CertificateError, match=r"(cannot be read .*|is a folder); expected certificate\.json"):
            read_certificate(tmp_path / name)


class TestKeys:
    def test_pair_signs_and_verifies(self, tmp_path: Path):
        """A key behind a passphrase signs; its public half accepts that and nothing else."""
        private, public = generate_key(tmp_path / "a.b", b"four words")
        signature = load_private_key(private, b"four words").sign(b"data")
        assert (private.name, public.name) == ("a.b.pem", "a.b.pub")
        assert load_public_key(public).verifies(signature, b"data")
        assert not load_public_key(public).verifies(signature, b"date")

    def test_files_are_pkcs8_and_private(self, tmp_path: Path):
        """Encrypted PKCS#8, readable by its owner alone; openssl reads both files."""
        private, public = generate_key(tmp_path / "k", b"secret")
        assert private.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
        derived = subprocess.run(
            ["openssl", "pkey", "-in", private, "-passin", "pass:secret", "-pubout"], capture_output=True, check=True
        ).stdout
        assert derived == public.read_bytes()

    @pytest.mark.parametrize("existing", ["k.pem", "k.pub"])
    def test_nothing_is_overwritten(self, tmp_path: Path, existing: str):
        """Where either file exists, neither is written."""
        (tmp_path / existing).write_text("mine")
        with pytest.raises(UsageError, match=f"{existing} exists already"):
            generate_key(tmp_path / "k", b"secret")
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(existing, "mine")]

    def test_dangling_link_is_not_followed(self, tmp_path: Path):
        """A link planted where the key will be does not lead it elsewhere."""
        (tmp_path / "k.pem").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UsageError, match="exists already"):
            generate_key(tmp_path / "k", None)
        assert not (tmp_path / "elsewhere").exists()

    def test_empty_passphrase_is_refused(self, tmp_path: Path):
        """An empty passphrase protects nothing."""
        with pytest.raises(UsageError, match="passphrase is empty"):
            generate_key(tmp_path / "k", b"")

    def test_key_of_openssl_is_read(self, tmp_path: Path):
        """A PKCS#8 key that openssl made and encrypted signs as well."""
        command = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -aes256 -pass pass:x -out k.pem"
        subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
        key = load_private_key(tmp_path / "k.pem", b"x")
        assert key.public.verifies(key.sign(b"data"), b"data")

    def test_signature_is_deterministic_with_the_lower_s(self, key: PrivateKey):
        """RFC 6979 and the lower of the two values of s: one statement, one signature."""
        for i in range(20):
            signature = key.sign(bytes([i]))
            assert signature == key.sign(bytes([i]))
            assert utils.decode_dss_signature(signature)[1] <= ORDER // 2

    def test_rfc_6979_example(self):
        """RFC 6979, appendix A.2.5, P-256 with SHA-256, message "sample": its r, and its s or the order minus it."""
        secret = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721
        r = 0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716
        s = 0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8
        pem = ec.derive_private_key(secret, ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        signature = parse_private_key(pem, None, "the example").sign(b"sample")
        assert utils.decode_dss_signature(signature) == (r, min(s, ORDER - s))

    @pytest.mark.parametrize(
        ("content", "passphrase", "says"),
        [
            ("encrypted", b"wrong", "passphrase does not open"),
            ("encrypted", None, "protected by a passphrase, but none was given"),
            ("public", None, "holds a public key"),
            ("p384", None, "another type"),
            ("ed25519", None, "another type"),
            ("text", None, "no key that can be read"),
            ("empty", None, "is empty"),
            ("huge", None, "larger than 64 KB"),
            ("missing", None, "cannot be read"),
        ],
    )
    def test_private_key_that_is_none(
        self, content: str, passphrase: bytes | None, says: str, strange: dict[str, Path]
    ):
        """Each wrong file has its own sentence."""
        with pytest.raises(CertificateError, match=says):
            load_private_key(strange[content], passphrase)

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ("encrypted", "holds a private key"),
            ("p384-public", "another type"),
            ("text", "no key that can be read"),
            ("missing", "cannot be read"),
        ],
    )
    def test_public_key_that_is_none(self, content: str, says: str, strange: dict[str, Path]):
        """A reader trusts public P-256 keys and nothing else."""
        with pytest.raises(CertificateError, match=says):
            load_public_key(strange[content])

    @pytest.fixture
    def strange(self, tmp_path: Path) -> dict[str, Path]:
        private, public = generate_key(tmp_path / "good", b"right")
        for name, algorithm in (("p384", "EC -pkeyopt ec_paramgen_curve:P-384"), ("ed25519", "ed25519")):
            command = f"openssl genpkey -algorithm {algorithm} -out {name}.pem"
            subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
        subprocess.run(["openssl", "pkey", "-in", "p384.pem", "-pubout", "-out", "p384.pub"], cwd=tmp_path, check=True)
        (tmp_path / "text").write_text("-----BEGIN NOTHING-----")
        (tmp_path / "empty").write_text("")
        (tmp_path / "huge").write_bytes(b" " * (64 << 10) + b" ")
        return {
            "encrypted": private,
            "public": public,
            "p384": tmp_path / "p384.pem",
            "p384-public": tmp_path / "p384.pub",
            "ed25519": tmp_path / "ed25519.pem",
            "text": tmp_path / "text",
            "empty": tmp_path / "empty",
            "huge": tmp_path / "huge",
            "missing": tmp_path / "missing",
        }


class TestCommandKey:
    """A key that no file of ours holds: a command signs what it reads."""

    SIGNS = "openssl dgst -sha256 -sign key.pem"

    @pytest.fixture
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        generate_key(tmp_path / "key", None)
        generate_key(tmp_path / "other", None)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    @pytest.mark.parametrize(
        "command",
        [
            SIGNS.split(),
            ["sh", "-c", f"{SIGNS} | openssl base64"],
            ["sh", "-c", f"{SIGNS} | openssl base64 -A"],
            ["sh", "-c", f"echo -----BEGIN SIGNATURE-----; {SIGNS} | openssl base64; echo -----END SIGNATURE-----"],
        ],
        ids=["der", "base64", "base64 in one line", "pem"],
    )
    def test_signs_as_the_key_itself_would(self, place: Path, command: list[str]):
        """DER, base64 or PEM: the certificate holds under the public key, with the lower s, by openssl too."""
        key = CommandKey(load_public_key(place / "key.pub"), tuple(command))
        for _ in range(4):  # openssl draws a nonce: of four signatures one has the higher s, but for 6 % of the time
            data = certify(evaluation(), key)[1]
            assert data is not None
            certificate = parse_certificate(data, "x")
            assert certificate.key_id == load_private_key(place / "key.pem").public.id
            assert key.public.verifies(certificate.signature, pre_authentication(certificate.statement.data))
            assert certificate.statement.data == certify(evaluation(), None)[0]

    @pytest.mark.parametrize(
        ("command", "says"),
        [
            ("openssl dgst -sha256 -sign other.pem", "signed other data, or with another key"),
            ("openssl dgst -sha384 -sign key.pem", "signed other data, or with another key"),
            ("sh -c 'echo; cat >/dev/null'", "wrote no ECDSA P-256 signature"),
            ("cat", "wrote no ECDSA P-256 signature"),
            ("sh -c 'head -c 5000 /dev/zero'", "wrote no ECDSA P-256 signature"),
            ("openssl dgst -sha256 -sign absent.pem", "failed"),
            ("false", "failed"),
            ("./no-such-program", "cannot be run"),
        ],
    )
    def test_that_does_not_sign_is_refused(self, place: Path, command: str, says: str):
        """Nothing is certified by a command that signs with another key, something else, or not at all."""
        key = CommandKey(load_public_key(place / "key.pub"), tuple(shlex.split(command)))
        with pytest.raises(CertificateError, match=says):
            certify(evaluation(), key)

    def test_reads_all_that_is_signed(self, place: Path):
        """The command gets the pre-authentication bytes, all of them, on standard input."""
        program = "import sys, pathlib; pathlib.Path('seen').write_bytes(sys.stdin.buffer.read())"
        key = CommandKey(load_public_key(place / "key.pub"), (sys.executable, "-c", program))
        large = evaluation(page_one=("long. " * 50_000,))
        with pytest.raises(CertificateError, match="wrote no"):
            certify(large, key)
        assert (place / "seen").read_bytes() == pre_authentication(statement_bytes(large))


class TestCountersigning:
    """A further signature: another bundle over the same statement."""

    @pytest.mark.parametrize(
        ("name", "model", "expected"),
        [
            ("certificate.json", "best_model.pth", "best_model.clinical.certificate.json"),
            ("statement.json", "best_model.pth", "best_model.clinical.certificate.json"),
            ("release-3.certificate.json", "best_model.pth", "release-3.clinical.certificate.json"),
            ("certificate.json", "../../etc/x y.pth", "x_y.clinical.certificate.json"),
            ("certificate.json", ".pth", "pth.clinical.certificate.json"),
        ],
    )
    def test_file_is_named_for_what_it_speaks_of(self, tmp_path: Path, name: str, model: str, expected: str):
        """A hostile name stays in the folder."""
        statement = make_statement(evaluation(model=replace(evaluation().model, name=model)))
        assert countersignature(tmp_path / name, "clinical", statement) == tmp_path / expected

    @pytest.mark.parametrize("role", ["", "Clinical", "../x", "a b", "a/b", "-x", "x" * 65])
    def test_role_is_a_plain_word(self, tmp_path: Path, role: str):
        with pytest.raises(UsageError, match="not a plain word"):
            countersignature(tmp_path / "certificate.json", role, make_statement(evaluation()))

    def test_both_hold_over_the_same_statement(self, signed: bytes, key: PrivateKey, tmp_path: Path):
        other = load_private_key(generate_key(tmp_path / "doctor", None)[0])
        first = parse_certificate(signed, "x")
        second = parse_certificate(countersign(first, other), "y")
        assert second.statement == first.statement
        assert (first.key_id, second.key_id) == (key.public.id, other.public.id)
        with pytest.raises(UsageError, match="This key has signed it already"):
            countersign(first, key)
