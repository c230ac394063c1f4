"""A model whose audit found a leak stays out, by name; its lines can be waived like any other."""

from __future__ import annotations

from drgate.checklist import parse_yaml
from drgate.evaluate import evaluate
from drgate.evaluation import Audit, Checked, Look, TestSet
from drgate.predictions import published, without_answers
from tests.support.repositories import (
    IMAGES,
    RECENT,
    TEST_SET,
    Repository,
    answer,
    answers,
    closing,
    model_facts,
    of,
    said,
    scored,
    waive,
)


def leaky(repository: Repository) -> None:
    """In the place of the model: another one, with the certificate that drgate evaluate gives it."""
    content = b"weights that know the test set"
    checklist = parse_yaml((repository.root / "checklists/site-a.yaml").read_bytes(), "checklist")
    model = model_facts({"dr.pth": content})
    table = without_answers(published(scored(answers(1), model, TEST_SET), checklist))
    audit = Audit(f"sha256:{'a' * 64}", (Checked("patients", "found", 3, {"test": 160, "train": 900}),))
    data = TestSet("site-a", manifest_digest=TEST_SET, images_digest=IMAGES, audit=audit)
    found = evaluate(table, checklist, model=model, data=data, look=Look(0, checklist.looks, RECENT))
    repository.write("models/dr.pth", content)
    repository.certify("certificates/leaky", found, table)


class TestALeak:
    def test_closes_the_gate_with_the_reason(self, repository):
        """Exit code 1; the check is named, with how many, and that no look was taken."""
        leaky(repository)
        report = answer(repository)
        assert report.exit_code == 1, said(report)
        line = of(report, "audit:patients")
        assert (line.status, line.closes) == ("FAIL", True)
        assert "3 found (compared: 160 test, 900 train)" in line.reason
        assert "No look was taken, because the audit found a leak." in of(report, "look").reason

    def test_can_be_waived_line_by_line(self, repository):
        """The line of the audit is waived like any other; whatever else closes the gate still does."""
        leaky(repository)
        report = answer(repository)
        name = next(one for one in closing(report) if "audit:patients" in one)
        waive(repository, report, name)
        again = answer(repository)
        assert of(again, "audit:patients").status == "WAIVED", said(again)
        assert again.exit_code != 0
