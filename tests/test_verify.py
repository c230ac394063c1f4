"""Verify: what is genuine, whose it is, and what was not checked."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from cryptography.hazmat.primitives import serialization

from drgate.certificate.keys import PrivateKey, generate_key, load_private_key
from drgate.certificate.sign import certify
from drgate.certificate.statement import make_statement, reference
from drgate.certificate.trust import Revocations
from drgate.checklist import Checklist, load_checklist, parse_checklist
from drgate.errors import CertificateError, DrgateError
from drgate.evaluate import evaluate
from drgate.evaluation import Epoch, Estimate, Evaluation, File, HeldAgainst, Model, Patients, Spend, TestSet, Training
from drgate.files import canonical_json
from drgate.looks import Seen, take_look
from drgate.predictions import Predictions, make_predictions, published, write_predictions
from drgate.verify import Verification
from tests.support.evaluations import CONTENT, THIS_RUN, criterion, digest_of, evaluation, file_entry
from tests.support.verbs import verified as verify


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> PrivateKey:
    return load_private_key(generate_key(tmp_path_factory.mktemp("keys") / "clinical", None)[0])


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> PrivateKey:
    return load_private_key(generate_key(tmp_path_factory.mktemp("keys") / "stranger", None)[0])


def written(folder: Path, made: Evaluation, key: PrivateKey | None) -> Path:
    """The certificate (or, without a key, the statement) of an evaluation, in its own folder."""
    statement, certificate = certify(made, key)
    path = folder / ("statement.json" if certificate is None else "certificate.json")
    path.write_bytes(statement if certificate is None else certificate)
    return path


def said(found: Verification) -> str:
    return "\n".join((*found.checked, *found.unchecked, *found.problems))


class TestExitCode:
    """The codes of `drgate verify`."""

    @pytest.mark.parametrize(
        ("verdict", "status", "code"),
        [("PASS", "PASS", 0), ("FAIL", "FAIL", 1), ("INSUFFICIENT", "INSUFFICIENT", 3)],
    )
    def test_of_a_genuine_one_is_its_verdicts(self, tmp_path, key, verdict, status, code):
        """A genuine FAIL is genuine: 1, not 2."""
        path = written(tmp_path, evaluation(verdict=verdict, criteria=(criterion("accuracy", status),)), key)
        found = verify(path, trusted=[key.public])
        assert (found.genuine, found.trusted, found.verdict, found.exit_code) == (True, True, verdict, code)

    @pytest.mark.parametrize(("verdict", "status"), [("PASS", "PASS"), ("FAIL", "FAIL")])
    def test_of_an_unsigned_one_is_3(self, tmp_path, key, verdict, status):
        """Whatever an unsigned statement says, it is not shown."""
        path = written(tmp_path, evaluation(verdict=verdict, criteria=(criterion("accuracy", status),)), None)
        found = verify(path, trusted=[key.public])
        assert (found.genuine, found.trusted, found.exit_code) == (False, False, 3)
        assert "unsigned" in said(found)

    def test_without_trusted_keys_is_3(self, tmp_path, key):
        """A signature that nobody vouches for proves nothing: the file names its own signer."""
        found = verify(written(tmp_path, evaluation(), key))
        assert (found.genuine, found.trusted, found.exit_code) == (False, False, 3)
        assert f"no trusted key was given. It names the key {key.public.id}" in said(found)

    def test_of_another_signer_is_2(self, tmp_path, key, stranger):
        """Signed well, by somebody who is not trusted."""
        found = verify(written(tmp_path, evaluation(), stranger), trusted=[key.public])
        assert (found.genuine, found.exit_code) == (False, 2)
        assert f"signed by key {stranger.public.id}, which is not among the trusted keys" in said(found)

    def test_of_a_forged_signer_is_2(self, tmp_path, key, stranger):
        """A stranger's signature under a trusted key's name."""
        found = verify(written(tmp_path, evaluation(), PrivateKey(key.public, stranger._key)), trusted=[key.public])
        assert (found.genuine, found.trusted, found.exit_code) == (False, False, 2)
        assert f"not that of key {key.public.id}" in said(found)

    def test_of_a_changed_key_hint_is_2(self, tmp_path, key, stranger):
        """The hint is not signed: a trusted key's signature under another key's name is not that certificate."""
        path = written(tmp_path, evaluation(), PrivateKey(stranger.public, key._key))
        for trusted in ([key.public], [key.public, stranger.public]):
            found = verify(path, trusted=trusted)
            assert (found.genuine, found.trusted, found.exit_code) == (False, False, 2)

    def test_of_an_unsigned_one_that_is_contradicted_is_2(self, tmp_path):
        """Contradicted outweighs unsigned."""
        (tmp_path / "other.pth").write_bytes(b"other weights")
        found = verify(written(tmp_path, evaluation(), None), models=[tmp_path / "other.pth"])
        assert found.exit_code == 2

    def test_one_of_several_trusted_keys_is_enough(self, tmp_path, key, stranger):
        """Trust is a set of keys."""
        assert verify(written(tmp_path, evaluation(), key), trusted=[stranger.public, key.public]).exit_code == 0

    def test_what_is_no_certificate_raises(self, tmp_path):
        """A file of another kind has no verdict to report."""
        (tmp_path / "certificate.json").write_text("{}")
        with pytest.raises(CertificateError, match=r"certificate\.json is another kind of file, not a certificate"):
            verify(tmp_path / "certificate.json")


class TestNeverAccepted:
    """`drgate verify` on what is not the certificate that was signed: exit code 2, and the reason in a sentence."""

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("empty", "is empty; expected certificate.json"),
            ("duplicate_key", "has a key twice"),
            ("truncated", "is cut off or damaged"),
            ("white_space", "differs from the original"),
            ("unsigned_field", "not in its canonical form"),
            ("unknown_algorithm", "not an ECDSA P-256 signature"),
            ("other_predicate", "is not a statement of drgate"),
            ("number_changed", "not, byte for byte, what follows"),
            ("swapped_signature", "statement or signature was changed"),
            ("stranger", "not among the trusted keys"),
            ("not_a_file", "cannot be read"),
        ],
    )
    def test_with_its_reason(self, drgate, tmp_path, key, stranger, name, says):
        other = certify(evaluation(no_output=(1, 0, 0, 0, 0)), key)[1]
        signed = certify(evaluation(), key)[1]
        assert signed is not None
        assert other is not None
        bundle, envelope = json.loads(signed), json.loads(signed)["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"])
        signature = envelope["signatures"][0]
        theirs = json.loads(other)["dsseEnvelope"]["signatures"][0]["sig"]
        ed25519 = base64.b64encode(b"\1" * 64).decode()

        def enveloped(**changes: Any) -> bytes:
            return canonical_json({**bundle, "dsseEnvelope": {**envelope, **changes}})

        def stated(statement: bytes) -> bytes:
            return enveloped(payload=base64.b64encode(statement).decode())

        files = {
            "empty": b"",
            "truncated": signed[: len(signed) // 2],
            "duplicate_key": signed[:-1] + b',"mediaType":"application/json"}',
            "white_space": signed + b"\n",
            "unsigned_field": canonical_json({**bundle, "comment": "looks fine to me"}),
            "unknown_algorithm": enveloped(signatures=[{**signature, "sig": ed25519}]),
            "other_predicate": stated(canonical_json({"_type": "https://in-toto.io/Statement/v1", "predicate": {}})),
            "number_changed": stated(payload.replace(b'"passedTests":["accuracy",', b'"passedTests":["auc",')),
            "swapped_signature": enveloped(signatures=[{**signature, "sig": theirs}]),
            "stranger": certify(evaluation(), stranger)[1],
        }
        path, public = tmp_path / f"certificate_{name}.json", tmp_path / "key.pub"
        public.write_bytes(public_pem(key))
        if (data := files.get(name)) is not None:
            path.write_bytes(data)
        ended = drgate("verify", path, "--key", public)
        assert ended.code == 2
        assert says in " ".join((ended.out + ended.err).split())
        assert "Traceback" not in ended.err
        path.write_bytes(signed)
        assert drgate("verify", path, "--key", public).code == 0, "as it was signed, it is accepted"


def public_pem(key: PrivateKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public._key.public_bytes(serialization.Encoding.PEM, form)


DAY = timedelta(days=1)
LOOKED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)  # of the evaluations made by hand


class TestStanding:
    """Whether it still holds: its own expiry, a policy's highest age, revocations."""

    @staticmethod
    def expiring(days: int) -> Evaluation:
        content = {**CONTENT, "valid_days": days}
        return evaluation(spec=HeldAgainst("small", 2, digest_of(content), content))

    def test_an_expired_one_is_2(self, tmp_path, key):
        path = written(tmp_path, self.expiring(30), key)
        before = verify(path, trusted=[key.public], now=LOOKED + 29 * DAY)
        after = verify(path, trusted=[key.public], now=LOOKED + 30 * DAY)
        assert (before.exit_code, after.exit_code) == (0, 2)
        assert "Its look was taken on 2026-01-02; it is valid until 2026-02-01." in before.checked
        assert "It expired on 2026-02-01." in after.problems
        assert not after.genuine

    def test_one_older_than_asked_is_2(self, tmp_path, key):
        path = written(tmp_path, evaluation(), key)
        for days, code in ((10, 0), (11, 2)):
            assert verify(path, trusted=[key.public], now=LOOKED + days * DAY, max_age_days=10).exit_code == code

    def test_age_that_nobody_asked_for_is_unchecked(self, tmp_path, key):
        found = verify(written(tmp_path, evaluation(), key), trusted=[key.public])
        assert any("has no expiry date, and --max-age-days was not given" in sentence for sentence in found.unchecked)

    def test_the_clock_is_not_the_environments(self, tmp_path, key, monkeypatch):
        """SOURCE_DATE_EPOCH dates new looks; it does not turn a reader's clock back."""
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(int(LOOKED.timestamp())))
        assert verify(written(tmp_path, self.expiring(1), key), trusted=[key.public]).exit_code == 2

    def test_one_from_the_future_is_2(self, tmp_path, key):
        path = written(tmp_path, evaluation(), key)
        assert verify(path, trusted=[key.public], now=LOOKED - DAY).exit_code == 2

    def test_a_revoked_one_is_2(self, tmp_path, key, stranger):
        """By its statement or its key; another key's revocation does not touch it, and is said to be checked."""
        path = written(tmp_path, evaluation(), key)
        digest = f"sha256:{hashlib.sha256(certify(evaluation(), None)[0]).hexdigest()}"
        for name in (digest, key.public.id):
            found = verify(path, trusted=[key.public], revocations=Revocations({name: "the laptop was lost"}))
            assert found.exit_code == 2
            assert "is revoked: the laptop was lost" in said(found)
        other = verify(path, trusted=[key.public], revocations=Revocations({stranger.public.id: "left"}))
        assert other.exit_code == 0
        assert "Neither the statement nor the key is revoked." in other.checked


class TestLook:
    """The look that a statement names stands in the chain, and says the same."""

    @pytest.fixture
    def chained(self, tmp_path, table) -> tuple[Evaluation, Path]:
        chain = tmp_path / "looks.jsonl"
        for model in ("another", "this"):
            look = take_look(
                chain, Seen.of(table, "clinic-a"), model=model, predictions=table.digest, checklist=CHECKLIST
            )
        return evaluation(model=replace(evaluation().model, tensor_digest="this"), look=look), chain

    def test_is_found_in_its_chain(self, tmp_path, key, chained):
        made, chain = chained
        found = verify(written(tmp_path, made, key), trusted=[key.public], looks=chain)
        assert found.exit_code == 0
        assert f"{chain} logs it: look 2 of 1, {made.look.time}." in found.checked

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"number": 1}, "says look 2, not 1"),
            ({"allowed": 9}, "says allowed 1, not 9"),
            ({"time": "2026-01-02T03:04:05Z"}, "says time"),
            ({"line": f"sha256:{'0' * 64}"}, "this look is not logged there"),
        ],
    )
    def test_that_says_something_else_is_found_out(self, tmp_path, key, chained, change, says):
        """A signer cannot call the second look the first."""
        made, chain = chained
        path = written(tmp_path, replace(made, look=replace(made.look, **change)), key)
        found = verify(path, trusted=[key.public], looks=chain)
        assert found.exit_code == 2
        assert says in said(found)

    def test_of_another_model_is_found_out(self, tmp_path, key, chained):
        made, chain = chained
        path = written(tmp_path, replace(made, model=replace(made.model, tensor_digest="better")), key)
        assert "says model 'this', not 'better'" in said(verify(path, trusted=[key.public], looks=chain))

    def test_later_one_of_the_same_model_is_named(self, tmp_path, key, chained, table):
        """With other cut-offs, or other grades: what that found is not in this certificate."""
        made, chain = chained
        time = "2026-01-31T09:00:00Z"
        take_look(
            chain,
            Seen.of(table, "clinic-a"),
            model="this at sha256:1",
            predictions=table.digest,
            checklist=CHECKLIST,
            time=time,
        )
        found = verify(written(tmp_path, made, key), trusted=[key.public], looks=chain)
        assert f"{chain} logs a later look of this model, {time}; ask for its certificate." in found.unchecked

    def test_later_one_of_the_exported_model_itself_is_named(self, tmp_path, key, chained, table):
        """Its certificate is on the checkpoint's look; what it was found to be by itself counts too."""
        made, chain = chained
        parent = reference(make_statement(evaluation()))
        own = replace(made.model, tensor_digest="exported", parent=replace(parent, tensor_digest="this"))
        before = verify(written(tmp_path, replace(made, model=own), key), trusted=[key.public], looks=chain)
        assert "logs it: look 2" in said(before)
        assert "logs a later look" not in said(before)
        seen = Seen.of(table, "clinic-a")
        take_look(chain, seen, model="exported", predictions=f"sha256:{'5' * 64}", checklist=CHECKLIST)
        found = verify(tmp_path / "certificate.json", trusted=[key.public], looks=chain)
        assert f"{chain} logs a later look of this model" in said(found)

    def test_without_a_line_is_not_in_the_chain(self, tmp_path, key, chained):
        """A statement that names no line cannot be bound to a chain: with a chain given, that is no pass."""
        look = replace(chained[0].look, line=None)
        found = verify(written(tmp_path, replace(chained[0], look=look), key), trusted=[key.public], looks=chained[1])
        assert found.exit_code == 2

    def test_in_a_broken_chain_is_an_error(self, tmp_path, key, chained):
        made, chain = chained
        chain.write_bytes(chain.read_bytes().replace(b'"look":1', b'"look":3'))
        with pytest.raises(DrgateError, match="chain of looks is broken"):
            verify(written(tmp_path, made, key), trusted=[key.public], looks=chain)
        with pytest.raises(DrgateError, match="cannot be read"):
            verify(written(tmp_path, made, key), looks=tmp_path / "absent")


class TestEarlier:
    """The certificate of the checkpoint that an ONNX file was exported from, or one that was compared with."""

    def test_is_the_one_that_is_named(self, tmp_path, key):
        earlier = written(tmp_path, evaluation(), key)
        made = evaluation(model=replace(evaluation().model, parent=reference(make_statement(evaluation()))))
        (tmp_path / "later").mkdir()
        path = written(tmp_path / "later", made, key)
        assert verify(path, trusted=[key.public], parent=earlier).exit_code == 0
        assert any("was not given (--parent)" in line for line in verify(path, trusted=[key.public]).unchecked)

    def test_of_a_revoked_key_is_2(self, tmp_path, key, stranger):
        """What was exported under it stands on nothing."""
        parent = evaluation()
        (tmp_path / "parent").mkdir()
        before = written(tmp_path / "parent", parent, stranger)
        made = evaluation(model=replace(parent.model, parent=reference(make_statement(parent))))
        revoked = Revocations({stranger.public.id: "the laptop was lost"})
        path = written(tmp_path, made, key)
        assert verify(path, trusted=[key.public], parent=before, revocations=Revocations({})).exit_code == 0
        found = verify(path, trusted=[key.public], parent=before, revocations=revoked)
        assert found.exit_code == 2
        assert "the earlier certificate: The key" in said(found)
        compared = written(tmp_path, evaluation(model=replace(parent.model, previous=made.model.parent)), key)
        assert verify(compared, trusted=[key.public], parent=before, revocations=revoked).exit_code == 0

    @pytest.mark.parametrize("lie", [{"verdict": "FAIL"}, {"criteria": {}}, {"statement": f"sha256:{'0' * 64}"}])
    def test_that_was_misquoted_is_found_out(self, tmp_path, key, lie):
        earlier = written(tmp_path, evaluation(), key)
        made = evaluation(
            model=replace(evaluation().model, parent=replace(reference(make_statement(evaluation())), **lie))
        )
        (tmp_path / "later").mkdir()
        found = verify(written(tmp_path / "later", made, key), trusted=[key.public], parent=earlier)
        assert found.exit_code == 2
        assert "is not an earlier certificate that it names" in said(found)


class TestModelFiles:
    """Names and digests together: `another` is exit code 2, missing or renamed 3."""

    FILES: ClassVar = {
        "model.onnx": (b"graph", "model"),
        "model.onnx.data": (b"tensors", "data"),
        "labels.json": (b"[]", "labels"),
        "cuts.json": (b"{}", "cut_offs"),
    }

    @pytest.fixture
    def whole(self, tmp_path, key) -> tuple[Path, Path]:
        """The certificate of a model of four files, and the folder with them."""
        files = tuple(file_entry(name, *file) for name, file in self.FILES.items())
        folder = tmp_path / "model"
        folder.mkdir()
        for name, (content, _) in self.FILES.items():
            (folder / name).write_bytes(content)
        return written(tmp_path, evaluation(model=Model("onnx", "model.onnx", files, THIS_RUN)), key), folder

    def test_the_model_with_all_its_files_beside_it(self, whole, key):
        """Given the model's file or its folder, all others are found there."""
        path, folder = whole
        for given in (folder / "model.onnx", folder):
            found = verify(path, trusted=[key.public], models=[given])
            assert found.exit_code == 0
            assert "All certified files are there." in found.checked
            digest = hashlib.sha256(b"tensors").hexdigest()
            assert (
                f"{folder}/model.onnx.data is the certified file model.onnx.data (SHA-256 {digest})." in found.checked
            )

    def test_a_device_under_a_certified_name_is_refused(self, whole, key):
        """It would be read without end."""
        path, folder = whole
        (folder / "model.onnx").unlink()
        (folder / "model.onnx").symlink_to("/dev/zero")
        with pytest.raises(CertificateError, match="is not a file; expected a file of the model"):
            verify(path, trusted=[key.public], models=[folder / "model.onnx"])

    def test_a_companion_elsewhere_can_be_given(self, whole, key, tmp_path):
        """A file that is not beside the model, under its own name."""
        path, folder = whole
        moved = (folder / "cuts.json").rename(tmp_path / "cuts.json")
        found = verify(path, trusted=[key.public], models=[folder / "model.onnx", moved])
        assert found.exit_code == 0

    def test_a_renamed_model_is_3(self, tmp_path, key):
        (tmp_path / "renamed.bin").write_bytes(b"weights")
        found = verify(written(tmp_path, evaluation(), key), trusted=[key.public], models=[tmp_path / "renamed.bin"])
        assert (found.exit_code, found.problems) == (3, ())
        assert found.missing == (
            f"{tmp_path}/renamed.bin is the certified file best_model.pth under another name; rename it to "
            "best_model.pth.",
        )
        assert set(found.missing) < set(found.unchecked)

    def test_another_file_of_the_same_name(self, tmp_path, key):
        """One byte more is another model."""
        (tmp_path / "best_model.pth").write_bytes(b"weights.")
        found = verify(written(tmp_path, evaluation(), key), trusted=[key.public], models=[tmp_path / "best_model.pth"])
        assert found.exit_code == 2
        assert "best_model.pth is another file than the certified best_model.pth" in said(found)

    def test_another_file_of_another_name(self, tmp_path, key):
        (tmp_path / "other.pth").write_bytes(b"other")
        found = verify(written(tmp_path, evaluation(), key), trusted=[key.public], models=[tmp_path / "other.pth"])
        assert found.exit_code == 2
        assert "The certificate is for another file than" in said(found)

    @pytest.mark.parametrize("name", ["model.onnx.data", "labels.json", "cuts.json"])
    def test_a_missing_or_renamed_companion_is_3(self, whole, key, name):
        """Cut-offs and labels decide the grades like the weights: none may be absent."""
        path, folder = whole
        (folder / name).rename(folder / f"{name}.old")
        for given in ([folder / "model.onnx"], [folder], [folder / "model.onnx", folder / f"{name}.old"]):
            found = verify(path, trusted=[key.public], models=given)
            assert (found.exit_code, found.problems) == (3, ())
            assert len(found.missing) == 1
            assert name in found.missing[0]
            assert "All certified files are there." not in found.checked

    def test_exchanged_names_are_2(self, whole, key):
        """Both digests are certified, and still it is another model: files refer to each other by name."""
        path, folder = whole
        (folder / "labels.json").write_bytes(b"{}")
        (folder / "cuts.json").write_bytes(b"[]")
        for given in ([folder], [folder / "model.onnx"], [folder / name for name in self.FILES]):
            found = verify(path, trusted=[key.public], models=given)
            assert found.exit_code == 2
            assert {"labels.json", "cuts.json"} == {Path(one.split()[0]).name for one in found.problems}

    def test_a_good_companion_elsewhere_does_not_hide_the_one_beside_the_model(self, whole, key, tmp_path):
        path, folder = whole
        (tmp_path / "labels.json").write_bytes(b"[]")
        (folder / "labels.json").write_bytes(b"[1]")
        given = [folder / "model.onnx", tmp_path / "labels.json"]
        assert verify(path, trusted=[key.public], models=given).exit_code == 2

    def test_a_companion_is_not_the_model(self, whole, key, tmp_path):
        """External data can be anything, such as another checkpoint; the certificate is not of it."""
        path, folder = whole
        alone = (folder / "model.onnx.data").rename(tmp_path / "model.onnx.data")
        found = verify(path, trusted=[key.public], models=[alone])
        assert found.exit_code == 3
        assert "model.onnx is missing: the certificate covers it as the model." in found.missing

    def test_cut_offs_that_the_certificate_does_not_know_are_2(self, whole, key):
        """What runs the model would grade by them."""
        path, folder = whole
        (folder / "operating_point.json").write_text("{}")
        files = (file_entry("model.onnx", b"graph"), file_entry("operating_point.json", b"{}", "data"))
        others = [evaluation(model=Model("onnx", "model.onnx", files[:n], THIS_RUN)) for n in (1, 2)]
        for certificate in (path, *(written(path.parent, other, key) for other in others)):
            found = verify(certificate, trusted=[key.public], models=[folder / "model.onnx"])
            assert found.exit_code == 2
            assert "operating_point.json decides the answers of the model beside it" in said(found)

    def test_cut_offs_under_the_name_that_is_opened(self, tmp_path, key):
        files = (file_entry("model.onnx", b"graph"), file_entry("operating_point.json", b"{}", "cut_offs"))
        for file, content in zip(files, (b"graph", b"{}"), strict=True):
            (tmp_path / file.name).write_bytes(content)
        path = written(tmp_path, evaluation(model=Model("onnx", "model.onnx", files, THIS_RUN)), key)
        assert verify(path, trusted=[key.public], models=[tmp_path / "model.onnx"]).exit_code == 0

    def test_missing_file_is_one_sentence(self, tmp_path, key):
        """A file that was asked for and is not there is an error, not a gap."""
        with pytest.raises(DrgateError, match=r"absent\.pth cannot be read"):
            verify(written(tmp_path, evaluation(), key), models=[tmp_path / "absent.pth"])

    def test_foreign_table_certifies_no_model(self, tmp_path, key):
        """Somebody else's predictions: said, in so many words."""
        table = replace(file_entry("theirs.csv", b"image,grade\n", "table"), md5=None)
        made = evaluation(model=Model("predictions table", "theirs.csv", (table,)))
        found = verify(written(tmp_path, made, key), trusted=[key.public])
        assert "which model made them is not known" in said(found)
        assert found.headline.startswith("theirs.csv (predictions, no model) meets")


class TestJson:
    def test_says_what_the_object_says(self, tmp_path, key):
        """`--format json` prints this."""
        found = verify(written(tmp_path, evaluation(), key), trusted=[key.public])
        plain: dict[str, Any] = json.loads(canonical_json(found.to_json()))
        assert plain["genuine"] is True
        assert plain["headline"] == "best_model.pth meets small version 2 on clinic-a."
        assert plain["unchecked"] == list(found.unchecked)


CHECKLIST = parse_checklist(
    {
        "name": "small",
        "version": 2,
        "bootstrap": {"resamples": 1000},
        "criteria": [
            {"id": "accuracy", "at_least": 0.7},
            {"id": "quadratic_kappa", "at_least": 0.6},
            {"id": "sensitivity:pdr", "at_least": 0.5},
            {"id": "stability", "below": 0.05, "required": False},
            {"id": "baseline", "margin": 0.2},
        ],
    },
    "the small spec",
)
TRAINING = Training(
    history=tuple(Epoch(i, 0.9 + 0.002 * (i % 3)) for i in range(12)),
    selected_epoch=5,
    n_val=400,
    spend=Spend(usd=3.5, earlier_usd=0.0),
)


def predictions(seed: int, *, changed: float = 0.0) -> Predictions:
    """Eighty patients with two eyes, mostly right; `changed` moves one probability."""
    rng = np.random.default_rng(seed)
    grades = np.repeat(np.arange(160) % 5, 1)
    probabilities = np.full((160, 5), 0.05)
    called = np.where(rng.random(160) < 0.92, grades, (grades + 1) % 5)
    probabilities[np.arange(160), called] = 0.8
    probabilities[0, (called[0] + 1) % 5] -= changed
    probabilities[0, called[0]] += changed
    table = pd.DataFrame(probabilities, columns=["p_0", "p_1", "p_2", "p_3", "p_4"])
    table.insert(0, "image", [f"{i:03}.jpg" for i in range(160)])
    table["patient"] = [f"p{i // 2}" for i in range(160)]
    table["grade"] = grades
    return make_predictions(table, f"table {seed}", {})


@pytest.fixture(scope="module")
def table() -> Predictions:
    return predictions(1)


@pytest.fixture(scope="module")
def rival() -> Predictions:
    return predictions(2)


@pytest.fixture(scope="module")
def judged(table: Predictions, rival: Predictions) -> Evaluation:
    template = evaluation()
    made = evaluate(
        published(table, CHECKLIST),
        CHECKLIST,
        model=template.model,
        data=TestSet("clinic-a"),
        training=TRAINING,
        look=template.look,
        baseline=published(rival),
    )
    assert made.verdict == "PASS"
    return made


@pytest.fixture
def folder(tmp_path: Path, table: Predictions, rival: Predictions) -> Path:
    write_predictions(table, tmp_path / "predictions.parquet")
    write_predictions(rival, tmp_path / "baseline.parquet")
    return tmp_path


def changed(made: Evaluation, metric: str, **fields: Any) -> Evaluation:
    """The evaluation with fields of one metric changed, also where a criterion rests on it."""

    def lied(estimate: Any) -> Any:
        return replace(estimate, **fields)

    return replace(
        made,
        metrics={name: lied(value) if name == metric else value for name, value in made.metrics.items()},
        criteria=tuple(
            replace(line, estimate=lied(line.estimate)) if line.id == metric else line for line in made.criteria
        ),
    )


def lower(by: float) -> Callable[[Evaluation], Evaluation]:
    """The accuracy's lower limit, moved."""

    def lie(made: Evaluation) -> Evaluation:
        estimate = made.metrics["accuracy"]
        assert isinstance(estimate, Estimate)
        assert estimate.low is not None
        return changed(made, "accuracy", low=estimate.low + by)

    return lie


def drawn(by: float) -> Callable[[Evaluation], Evaluation]:
    """The accuracy's bootstrap limits, moved."""

    def lie(made: Evaluation) -> Evaluation:
        estimate = made.metrics["accuracy"]
        assert isinstance(estimate, Estimate)
        assert estimate.bootstrap is not None
        low, high = estimate.bootstrap
        return changed(made, "accuracy", bootstrap=(low + by, high))

    return lie


class TestNumbers:
    """Whoever holds the predictions gets the same evaluation."""

    def test_come_out_the_same(self, folder, key, judged):
        """Every number is computed again, from the table beside the certificate and the baseline."""
        path = written(folder, judged, key)
        found = verify(path, trusted=[key.public], checklist=CHECKLIST, baseline=folder / "baseline.parquet")
        assert found.problems == ()
        assert found.exit_code == 0
        assert "(found beside the certificate)" in said(found)
        assert "The evaluation was recomputed from the predictions and came out the same." in found.checked
        assert "The checklist is the expected one, small version 2." in found.checked

    def test_come_out_of_any_file_with_the_same_rows(self, folder, tmp_path_factory, key, judged, table):
        """CSV, shuffled, without provenance: the rows count."""
        elsewhere = tmp_path_factory.mktemp("elsewhere") / "rows.csv"
        table.table.sample(frac=1, random_state=0).to_csv(elsewhere, index=False)
        found = verify(written(folder, judged, key), trusted=[key.public], predictions=elsewhere)
        assert found.exit_code == 0
        assert any("came out the same" in sentence for sentence in found.checked)
        assert (found.recomputed, found.bound) == (True, False), "a table without provenance is bound to no model"

    def test_are_not_claimed_without_predictions(self, tmp_path, key, judged):
        """What was not given was not checked."""
        found = verify(written(tmp_path, judged, key), trusted=[key.public])
        assert "The predictions were not given: the numbers were not recomputed." in found.unchecked
        assert not any("recomputed" in sentence for sentence in found.checked)
        assert (found.recomputed, found.bound) == (False, False)

    def test_one_changed_probability_is_another_table(self, folder, key, judged):
        """By a millionth, in one row, without consequence for any decision."""
        write_predictions(predictions(1, changed=1e-6), folder / "predictions.parquet")
        path = written(folder, judged, key)
        found = verify(path, trusted=[key.public], predictions=folder / "predictions.parquet")
        assert found.exit_code == 2
        assert "does not hold the predictions that were evaluated" in said(found)

    def test_another_models_table_beside_contradicts_nothing(self, folder, key, judged, table):
        """Certificates of several models share a folder: of the tables there the one with its digest is taken."""
        path = written(folder, judged, key)
        write_predictions(predictions(1, changed=1e-6), folder / "predictions.parquet")
        (folder / "broken.parquet").write_bytes(b"PAR1 and no more")
        alone = verify(path, trusted=[key.public])
        assert (alone.exit_code, alone.recomputed, alone.bound) == (0, False, False)
        (why,) = (sentence for sentence in alone.unchecked if "not beside the certificate" in sentence)
        assert "predictions.parquet holds others" in why
        assert "broken.parquet cannot be read" in why
        write_predictions(table, folder / "best.parquet")
        found = verify(path, trusted=[key.public])
        assert (found.exit_code, found.recomputed) == (0, True)
        assert "best.parquet (found beside the certificate)" in said(found)

    @pytest.mark.parametrize(
        ("lie", "place"),
        [
            (lower(1e-6), "criteria.accuracy.estimate.low"),
            (drawn(1e-13), "criteria.accuracy.estimate.bootstrap.low"),
            (lambda e: changed(e, "sensitivity:pdr", n=33), "criteria.sensitivity:pdr.estimate.n"),
            (lambda e: changed(e, "quadratic_kappa", low=0.99), "criteria.quadratic_kappa.estimate.low"),
            (lambda e: replace(e, no_output=(1, 0, 0, 0, 0)), "no_output[0]"),
            (lambda e: replace(e, page_one=e.page_one[1:]), "page_one"),
            (lambda e: replace(e, reordered="The classes are in another order."), "reordered"),
            (lambda e: replace(e, flagged=()), "flagged"),
            (lambda e: replace(e, counts=replace(e.counts, patients=160)), "counts.patients"),
            (lambda e: replace(e, bootstrap_seed="0" * 16), "bootstrap_seed"),
            (lambda e: replace(e, metrics={}), "metrics.accuracy is missing in the certificate"),
            (lambda e: replace(e, criteria=e.criteria[1:]), "criteria.accuracy is missing in the certificate"),
        ],
    )
    def test_lies_are_found_though_well_signed(self, folder, key, judged, lie, place):
        """A signer who certifies what the predictions do not say is contradicted by them."""
        found = verify(written(folder, lie(judged), key), trusted=[key.public], baseline=folder / "baseline.parquet")
        assert (found.trusted, found.recomputed, found.exit_code) == (True, False, 2)
        assert place in said(found)

    @pytest.mark.parametrize(
        ("forge", "says"),
        [
            (lambda data: replace(data, patients=Patients("none")), "show other patients than the statement says"),
            (lambda data: replace(data, images_digest=digest_of("declared")), "are of other images"),
        ],
    )
    def test_what_a_declaration_rests_on_is_found_out(self, tmp_path, key, forge, says):
        """The caller's own table shows pairs of eyes, and which images they are; what is recorded may hide it."""
        rows = [{"image": f"{i // 2}_{'lr'[i % 2]}", "grade": i % 5, "predicted": i % 5} for i in range(160)]
        own = make_predictions(pd.DataFrame(rows), "t.csv", {})
        own.table.to_csv(tmp_path / "t.csv", index=False)
        declared = [
            {"manifest": one, "one_image_per_patient": True} for one in (own.images_digest, digest_of("declared"))
        ]
        asked = [{"id": "accuracy", "at_least": 0.9}]
        checklist = parse_checklist({**CHECKLIST.content(), "criteria": asked, "declared": declared}, "declaring")
        honest = evaluate(own, checklist)
        data = forge(honest.data)
        template = evaluation()
        made = evaluate(
            published(own, checklist), checklist, model=template.model, data=data, look=template.look, training=TRAINING
        )
        found = verify(written(tmp_path, made, key), trusted=[key.public], predictions=tmp_path / "t.csv")
        assert (honest.verdict, found.exit_code) == ("INSUFFICIENT", 2)
        assert says in said(found)

    def test_last_digits_of_an_exact_bound_may_differ(self, folder, key, judged):
        """Another build of the special functions is no lie."""
        found = verify(written(folder, lower(1e-10)(judged), key), trusted=[key.public])
        assert found.exit_code == 0

    def test_bootstrap_belongs_to_its_numpy(self, folder, key, judged):
        """Under another NumPy the drawn limits are not compared, and that is said; the counts still are."""
        other = replace(drawn(0.01)(judged), software={**judged.software, "numpy": "1.0.0"})
        kappa = changed(other, "quadratic_kappa", bootstrap=(0.61, 0.99))
        found = verify(written(folder, kappa, key), trusted=[key.public])
        assert found.exit_code == 0
        assert "drawn by NumPy 1.0.0" in said(found)
        for forged in (changed(kappa, "accuracy", k=1), changed(kappa, "quadratic_kappa", low=0.61)):
            assert verify(written(folder, forged, key), trusted=[key.public]).exit_code == 2

    def test_another_numpy_changes_no_outcome(self, folder, key, judged):
        """A line that its own estimate misses cannot pass because its limits were drawn elsewhere."""
        other = replace(judged, software={**judged.software, "numpy": "1.0.0"})
        criteria = tuple(
            replace(c, threshold=0.999, status="PASS") if c.id == "quadratic_kappa" else c for c in other.criteria
        )
        content = {**judged.spec.content}
        content["criteria"] = [
            {**line, "at_least": 0.999} if line["id"] == "quadratic_kappa" else line for line in content["criteria"]
        ]
        digest = f"sha256:{hashlib.sha256(canonical_json(content)).hexdigest()}"
        forged = replace(other, criteria=criteria, spec=replace(judged.spec, content=content, digest=digest))
        found = verify(written(folder, forged, key), trusted=[key.public])
        assert found.exit_code == 2
        assert "quadratic_kappa.status" in said(found)

    @pytest.mark.parametrize(
        "forge",
        [
            lambda e: changed(e, "sensitivity:pdr", k=1),
            lambda e: replace(e, gate_error=tuple(replace(row, passes=0.0) for row in e.gate_error)),
            lambda e: replace(e, counts=replace(e.counts, patients=99999)),
        ],
    )
    def test_another_version_hides_no_number(self, folder, key, judged, forge):
        """What both versions record is compared, whatever the version that wrote it calls itself."""
        older = replace(judged, software={**judged.software, "drgate": "0.0.7"})
        assert verify(written(folder, forge(older), key), trusted=[key.public]).exit_code == 2

    def test_predictions_of_another_model(self, folder, key, table, judged):
        """A table says which model and images it is of; a statement that says otherwise is a problem."""
        provenance = {
            "model": {"tensor_digest": f"sha256:{'1' * 64}"},
            "manifest": {"digest": f"sha256:{'2' * 64}", "images_digest": f"sha256:{'3' * 64}"},
        }
        own = replace(table, provenance=provenance)
        write_predictions(published(own, CHECKLIST), folder / "predictions.parquet")
        data = replace(judged.data, manifest_digest=f"sha256:{'2' * 64}", images_digest=f"sha256:{'3' * 64}")
        model = replace(judged.model, tensor_digest=f"sha256:{'1' * 64}")
        honest = replace(judged, data=data, model=model)
        found = verify(written(folder, honest, key), trusted=[key.public])
        assert "another model" not in said(found)
        assert (found.recomputed, found.bound) == (True, True)
        write_predictions(own, folder / "own names.pq")
        found = verify(written(folder, honest, key), trusted=[key.public], predictions=folder / "own names.pq")
        assert (found.recomputed, found.bound) == (True, True), "the caller's own table is as good as the published one"
        for forged, what in (
            (replace(honest, model=replace(model, tensor_digest=f"sha256:{'4' * 64}")), "another model"),
            (replace(honest, data=replace(data, manifest_digest=f"sha256:{'4' * 64}")), "another test set"),
            (replace(honest, data=replace(data, grades=File("g.csv", "0" * 64))), "another grades"),
        ):
            found = verify(written(folder, forged, key), trusted=[key.public])
            assert (found.exit_code, found.bound) == (2, False)
            assert what in said(found)

    def test_sentences_belong_to_their_version(self, folder, key, judged):
        """Another drgate may word its reasons differently; its counts and decisions must be the same."""
        older = replace(judged, page_one=("In other words.",), software={**judged.software, "drgate": "0.0.7"})
        found = verify(written(folder, older, key), trusted=[key.public])
        assert found.exit_code == 0
        assert "drgate 0.0.7 wrote it" in said(found)
        assert verify(written(folder, lower(1e-6)(older), key), trusted=[key.public]).exit_code == 2

    def test_baseline_that_was_not_given_is_named(self, folder, key, judged):
        """Without the baseline's table everything else is compared."""
        path = written(folder, judged, key)
        found = verify(path, trusted=[key.public])
        assert found.exit_code == 0
        assert "The baseline's predictions were not given: its criterion was not compared." in found.unchecked
        assert verify(written(folder, lower(1e-6)(judged), key), trusted=[key.public]).exit_code == 2

    def test_other_baseline_is_refused(self, folder, key, judged):
        """The comparison was with one table, known by its digest."""
        path = written(folder, judged, key)
        found = verify(path, trusted=[key.public], baseline=folder / "predictions.parquet")
        assert found.exit_code == 2
        assert "predictions.parquet does not hold the baseline that was compared with." in said(found)

    def test_evidence_that_does_not_compute_is_a_problem(self, folder, judged):
        """Anybody can write a statement; a traceback is never the answer."""
        hostile = replace(judged, spec=replace(judged.spec, content={**judged.spec.content, "criteria": [1]}))
        found = verify(written(folder, hostile, None))
        assert found.exit_code == 2
        assert "cannot be computed from what the certificate records" in said(found)

    @pytest.mark.parametrize(
        ("place", "value", "where"),
        [
            (("look", "number"), "1", r"look\.number"),
            (("look", "number"), True, r"look\.number"),
            (("look", "number"), None, r"look has no number"),
            (("counts", "images"), "160", r"counts\.images"),
            (("counts", "by_grade"), [160], r"counts\.by_grade"),
            (("data", "warnings"), 7, r"data\.warnings"),
            (("training", "history"), [1], r"training\.history\.0"),
            (("training", "spend"), 7, r"training\.spend"),
            (("training", "mood"), "good", r"training\.mood"),
            (("model", "files", 0, "size"), 1.5, r"model\.files\.0\.size"),
            (("flagged",), [{"image": 3}], r"flagged\.0\.image"),
            (("flagged",), [{"image": "a", "grade": 9, "predicted": 0}], r"flagged\.0\.grade"),
            (("gate_error",), [{"id": "accuracy"}], r"gate_error\.0 has no method"),
            (("reliability",), {"referable": [{"low": "0"}]}, r"reliability\.referable\.0\.low"),
            (("metrics", "accuracy", "value"), "0.9", r"metrics\.accuracy\.value"),
            (("verdict",), "GREAT", "verdict"),
        ],
    )
    def test_what_is_read_has_its_type(self, judged, place, value, where):
        """A field of another type is no evaluation of ours: it is refused before anything is drawn or signed."""
        plain: Any = judged.to_json()
        inner = plain
        for key in place[:-1]:
            inner = inner[key]
        if value is None:
            del inner[place[-1]]
        else:
            inner[place[-1]] = value
        with pytest.raises(CertificateError, match=rf"^evaluation\.json: {where}.*; expected an evaluation"):
            Evaluation.from_json(plain, "evaluation.json", CertificateError)

    @pytest.mark.parametrize(
        ("place", "value", "says"),
        [
            (("verdict",), "OBSERVED", "required criteria make it"),
            (("criteria",), [], "has no criterion"),
            (("criteria", 1), "twice", "or one twice"),
            (("criteria", 0, "estimate", "k"), 10**6, "is not a proportion"),
            (("criteria", 0, "estimate", "k"), -1, r"criteria\.0\.estimate\.k"),
            (("look", "number"), 0, "a look is taken where the audit found no leak"),
            (("look", "number"), -1, r"look\.number"),
            (("look", "allowed"), -3, r"look\.allowed"),
            (("look", "time"), "yesterday", r"look\.time"),
            (("criteria", 0, "status"), "OBSERVED", "decides on the limits of intervals"),
            (("criteria", 0, "would_pass"), True, "would pass"),
            (
                ("spec", "content", "evidence"),
                {"decide_on": "point"},
                "is PASS, but the checklist decides on est",
            ),
            (("criteria", 0, "shown"), True, "shown is given for FAIL"),
            (("spec", "content", "evidence"), {}, r"spec\.content: evidence should have decide_on"),
            (("spec", "content", "valid_days"), 10**12, r"spec\.content: valid_days"),
            (("format",), "drgate evaluation 2", "of another format than 'drgate evaluation 3'; evaluate again"),
            (("format",), None, "of another format than 'drgate evaluation 3'; evaluate again"),
        ],
    )
    def test_a_contradiction_is_refused(self, judged, place, value, says):
        """Each value has its type, and they cannot be true together."""
        plain: Any = json.loads(json.dumps(judged.to_json()))
        assert plain["criteria"][0]["status"] == "PASS"
        inner = plain
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = plain["criteria"][0] if value == "twice" else value
        with pytest.raises(CertificateError, match=rf"^evaluation\.json.*{says}"):
            Evaluation.from_json(plain, "evaluation.json", CertificateError)

    def test_a_failure_says_whether_it_is_shown(self, judged):
        """Without it the headline would be another."""
        plain: Any = json.loads(json.dumps(judged.to_json()))
        plain["criteria"][0]["status"], plain["verdict"] = "FAIL", "FAIL"
        with pytest.raises(CertificateError, match="shown is given for FAIL"):
            Evaluation.from_json(plain, "evaluation.json", CertificateError)

    def test_what_is_written_is_read(self, judged):
        """The law: nothing is lost and nothing is added."""
        assert Evaluation.from_json(json.loads(json.dumps(judged.to_json()))) == judged

    def test_hostile_names_do_not_reach_the_terminal(self, folder, judged):
        """Escape sequences in an unsigned statement are spelled out."""
        found = verify(written(folder, replace(judged, metrics={"\x1b[2J\n::error": Estimate("index", 1.0)}), None))
        assert "\x1b" not in said(found)
        assert "\\x1b[2J\\n::error" in said(found)


class TestChecklist:
    def test_another_one_is_refused(self, tmp_path, key, judged):
        """Held against a checklist that nobody asked for."""
        other: Checklist = load_checklist("medical-grade")
        found = verify(written(tmp_path, judged, key), trusted=[key.public], checklist=other)
        assert found.exit_code == 2
        assert "The checklist is small version 2" in said(found)

    @pytest.mark.parametrize("part", ["digest", "content", "name", "version"])
    def test_must_be_the_one_its_digest_names(self, tmp_path, key, judged, part):
        """A certificate cannot carry one checklist under another's name or digest."""
        lies = {
            "digest": f"sha256:{'0' * 64}",
            "content": {**judged.spec.content, "looks": 2},
            "name": "medical-grade",
            "version": 7,
        }
        found = verify(written(tmp_path, replace(judged, spec=replace(judged.spec, **{part: lies[part]})), key))
        assert found.exit_code == 2
        assert "The checklist inside does not have the name and digest that are recorded" in said(found)
