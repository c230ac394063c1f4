"""Trust: whose signature counts in which role, what was revoked, what is too old."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from drgate.certificate.keys import PrivateKey, generate_key, load_private_key
from drgate.certificate.sign import certify
from drgate.certificate.statement import Certificate, Statement, make_statement, parse_certificate
from drgate.certificate.trust import Revocations, lapses, load_revocations, parse_revocations, roles
from drgate.errors import CertificateError
from drgate.evaluation import Evaluation, HeldAgainst, Look
from tests.support.evaluations import CONTENT, digest_of, evaluation

LOOK = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)  # of the evaluations made by hand


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PrivateKey]:
    folder = tmp_path_factory.mktemp("keys")
    names = ("doctor", "engineer", "stranger")
    return {name: load_private_key(generate_key(folder / name, None)[0]) for name in names}


def signed(key: PrivateKey, **changes: Any) -> Certificate:
    data = certify(evaluation(**changes), key)[1]
    assert data is not None
    return parse_certificate(data, "certificate.json")


def valid_for(days: int | None) -> Evaluation:
    content = CONTENT if days is None else {**CONTENT, "valid_days": days}
    return evaluation(spec=HeldAgainst("small", 2, digest_of(content), content))


class TestRoles:
    """Which roles have signed one statement, by a policy's keys."""

    @pytest.fixture
    def trusted(self, signers):
        return {"clinical": [signers["doctor"].public], "engineering": [signers["engineer"].public]}

    @pytest.mark.parametrize(
        ("by", "filled"),
        [
            ((), set()),
            (("stranger",), set()),
            (("doctor",), {"clinical"}),
            (("doctor", "doctor"), {"clinical"}),
            (("stranger", "engineer", "doctor"), {"clinical", "engineering"}),
        ],
    )
    def test_are_filled_by_their_keys(self, signers, trusted, by, filled):
        """A role is filled where one of its keys signed; a stranger, or a second signature of one key, fills none."""
        certificates = [signed(signers[name]) for name in by]
        assert roles(make_statement(evaluation()), certificates, trusted) == filled

    def test_signatures_on_another_statement_fill_nothing(self, signers, trusted):
        """Who signed look 1 has not signed look 2."""
        other = signed(signers["doctor"], look=Look(2, 2, "2026-02-02T00:00:00Z"))
        assert roles(make_statement(evaluation()), [other], trusted) == set()

    def test_a_forged_signature_fills_nothing(self, signers, trusted):
        """A stranger's signature under the doctor's key id."""
        forged = replace(signed(signers["stranger"]), key_id=signers["doctor"].public.id)
        assert roles(make_statement(evaluation()), [forged], trusted) == set()

    def test_a_revoked_key_fills_nothing(self, signers, trusted):
        lost = Revocations({signers["doctor"].public.id: "laptop lost"})
        certificates = [signed(signers["doctor"]), signed(signers["engineer"])]
        assert roles(make_statement(evaluation()), certificates, trusted, lost) == {"engineering"}

    def test_one_key_for_two_roles_is_refused(self, signers):
        """One person would sign for everybody."""
        twice = {role: [signers["doctor"].public] for role in ("clinical", "engineering")}
        with pytest.raises(CertificateError, match="roles clinical and engineering"):
            roles(make_statement(evaluation()), [signed(signers["doctor"])], twice)


class TestRevocations:
    def test_of_a_statement_and_of_a_key(self, signers):
        """A certificate falls with its statement or its key, and says why; another one stands."""
        certificate = signed(signers["doctor"])
        digest = f"sha256:{hashlib.sha256(certificate.statement.data).hexdigest()}"
        key_id = certificate.key_id
        assert Revocations({digest: "graded twice"}).against(certificate) == ("The statement is revoked: graded twice",)
        assert Revocations({key_id: "lost"}).against(certificate) == (f"The key {key_id} is revoked: lost",)
        assert Revocations({key_id: "lost"}).against(certificate.statement) == ()
        assert Revocations({signers["engineer"].public.id: "lost"}).against(certificate) == ()

    def test_reach_what_was_exported(self, signers):
        """The ONNX file falls with the statement of the checkpoint that it was exported from."""
        parent = make_statement(evaluation())
        from drgate.certificate.statement import reference

        model = replace(evaluation().model, parent=reference(parent))
        found = Revocations({parent.digest: "test set leaked"}).against(make_statement(evaluation(model=model)))
        assert found == ("The statement of the model that it was exported from is revoked: test set leaked",)

    def test_are_lines_with_reasons(self, tmp_path: Path):
        (tmp_path / "revoked.txt").write_text(
            f"# kept by QA\n\n{'a' * 64}  laptop lost\nsha256:{'b' * 64}\tleak found\n"
        )
        assert load_revocations(tmp_path / "revoked.txt").reasons == {
            "a" * 64: "laptop lost",
            f"sha256:{'b' * 64}": "leak found",
        }

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ("a" * 64, "without a reason"),
            ("a" * 63 + " short", "is not an id"),
            ("A" * 64 + " upper case", "is not an id"),
            ("sha256:" + "a" * 64 + "0 long", "is not an id"),
            ("the old key", "is not an id"),
            (f"{'a' * 64} once\n{'a' * 64} twice", "a second time"),
        ],
    )
    def test_a_line_that_revokes_nothing_is_refused(self, tmp_path: Path, line: str, says: str):
        """A misspelt id must not leave the key in force."""
        (tmp_path / "revoked.txt").write_text(line)
        with pytest.raises(CertificateError, match=says):
            load_revocations(tmp_path / "revoked.txt")

    def test_that_are_no_text_are_refused(self, tmp_path: Path):
        (tmp_path / "binary").write_bytes(b"\xff\xfe")
        for name, says in (("binary", "not UTF-8"), ("absent", "cannot be read")):
            with pytest.raises(CertificateError, match=says):
                load_revocations(tmp_path / name)
        with pytest.raises(CertificateError, match="entry 1 is 3"):
            parse_revocations([3], "drgate.toml")  # type: ignore[list-item]


class TestLapses:
    """Expiry is the checklist's, age the policy's; both count from the look."""

    @pytest.mark.parametrize(
        ("valid_days", "max_age_days", "passed", "says"),
        [
            (None, None, timedelta(days=3000), None),
            (30, None, timedelta(days=30, seconds=-1), None),
            (30, None, timedelta(days=30), "expired on 2026-02-01"),
            (None, 30, timedelta(days=30), None),
            (None, 30, timedelta(days=30, seconds=1), "30 days ago; at most 30"),
            (30, 400, timedelta(days=31), "expired on 2026-02-01"),
            (400, 30, timedelta(days=31), "31 days ago"),
            (None, None, timedelta(minutes=-59), None),
            (None, None, timedelta(minutes=-61), "is in the future"),
        ],
    )
    def test_at_the_edge(self, valid_days, max_age_days, passed, says):
        found = lapses(make_statement(valid_for(valid_days)), now=LOOK + passed, max_age_days=max_age_days)
        assert len(found) == (says is not None)
        assert all(says in sentence for sentence in found)

    def test_expiry_is_stated(self):
        """It stands in the signed bytes, absent where the checklist sets none."""
        assert make_statement(valid_for(90)).content["predicate"]["drgate"]["expires"] == "2026-04-02T03:04:05Z"
        assert make_statement(valid_for(90)).expires == LOOK + timedelta(days=90)
        assert "expires" not in make_statement(valid_for(None)).content["predicate"]["drgate"]
        assert make_statement(valid_for(None)).expires is None


def test_trust_and_verification_start_light(tmp_path: Path):
    """A gate in CI: reading, signatures, roles, revocations and age without NumPy, pandas or torch."""
    statement: Statement = make_statement(evaluation())
    (tmp_path / "statement.json").write_bytes(statement.data)
    program = (
        "import sys, json, pathlib; from datetime import UTC, datetime;"
        "from drgate.verify import Trust, verify; from drgate.certificate import trust;"
        f"found = verify(pathlib.Path({str(tmp_path / 'statement.json')!r}), Trust(revocations=trust.NOTHING_REVOKED));"
        "heavy = {'numpy', 'pandas', 'scipy', 'pyarrow', 'torch', 'ruamel.yaml'};"
        "print(json.dumps([found.exit_code, sorted(heavy & set(sys.modules))]))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout) == [3, []]
