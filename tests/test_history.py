"""History: which model passed what, when, and signed by whom."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drgate.certificate.keys import PrivateKey, generate_key, load_private_key
from drgate.certificate.scored import sign_scored
from drgate.certificate.sign import certify
from drgate.certificate.statement import parse_statement
from drgate.certificate.trust import Revocations
from drgate.errors import UsageError
from drgate.evaluation import Estimate, Look
from drgate.history import History, read_history
from drgate.report import history as history_page
from tests.support.evaluations import criterion, evaluation, whole_evaluation
from tests.support.repositories import answers, complete, model_facts, scored

HOSTILE = "</script><script>window.hacked=1</script><b>&amp;\u202e::error.pth"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PrivateKey]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: load_private_key(generate_key(folder / name, None)[0]) for name in ("clinical", "ml", "stranger")}


@pytest.fixture
def folder(tmp_path: Path, keys: dict[str, PrivateKey]) -> Path:
    """Three statements: the first passed and bears two signatures, the second failed, the third is not signed."""
    root = tmp_path / "certificates"

    def write(name: str, data: bytes | None) -> None:
        assert data is not None
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)

    second = evaluation(look=Look(2, 3, "2026-02-03T04:05:06Z"))
    for role in ("clinical", "ml"):
        write(f"b/{role}.certificate.json", certify(second, keys[role])[1])
    failed = evaluation(verdict="FAIL", criteria=(criterion("accuracy", "FAIL"),))
    write("a/certificate.json", certify(failed, keys["stranger"])[1])
    third = replace(failed, look=Look(4, 3, "2026-03-03T04:05:06Z"))
    write("c/statement.json", certify(third, None)[0])
    write("c/evaluation.json", b"{}")
    return root


class TestRecords:
    def test_a_signed_table_is_no_broken_certificate(self, folder, keys):
        """It lies beside the certificate that names it; a damaged one is named like any file that may be one."""
        predictions = complete(scored(answers(1), model_facts({"dr.pth": b"weights"})))
        path = folder / "b/predictions.scored.json"
        sign_scored(predictions, keys["ml"], "2026-01-02T03:04:05Z").write(path)
        assert read_history(folder).useless == ()
        path.write_bytes(path.read_bytes()[:-1])
        assert len(read_history(folder).useless) == 1

    def test_by_time_of_their_looks(self, folder):
        """One record a statement, whoever signed it."""
        found = read_history(folder)
        assert [(r.time[:10], r.verdict, r.look, r.allowed) for r in found.records] == [
            ("2026-01-02", "FAIL", 1, 1),
            ("2026-02-03", "PASS", 2, 3),
            ("2026-03-03", "FAIL", 4, 3),
        ]
        assert found.records[1].files == ("b/clinical.certificate.json", "b/ml.certificate.json")
        assert found.useless == ()

    def test_what_is_revoked_is_named_and_left_out(self, folder, keys, drgate, tmp_path):
        """A statement, or a key: the other signature stays."""
        (statement,) = (r for r in read_history(folder).records if r.look == 4)
        digest = parse_statement((folder / statement.files[0]).read_bytes(), "it").digest
        key = keys["clinical"].public.id
        found = read_history(folder, revocations=Revocations({digest: "wrong grades", key: "lost"}))
        assert [(r.look, r.files) for r in found.records] == [
            (1, ("a/certificate.json",)),
            (2, ("b/ml.certificate.json",)),
        ]
        assert "The statement is revoked: wrong grades" in " ".join(found.useless)
        (tmp_path / "revoked.txt").write_text(f"{digest} wrong grades\n")
        ended = drgate("history", folder, "--revoked", tmp_path / "revoked.txt", "--format", "json")
        assert [record["look"] for record in json.loads(ended.out)["records"]] == [1, 2]

    def test_only_verified_signatures_of_trusted_keys_count(self, folder, keys):
        """A name in a file proves nothing."""
        nobody = read_history(folder)
        assert not nobody.verified
        assert {r.trusted_signers for r in nobody.records} == {()}
        found = read_history(folder, trusted=[keys["clinical"].public])
        assert found.verified
        assert [r.trusted_signers for r in found.records] == [(), (keys["clinical"].public.id,), ()]
        assert [len(r.signers) for r in found.records] == [1, 2, 0]

    def test_forged_signature_does_not_count(self, folder, keys):
        """A stranger's signature under a trusted key's name."""
        forger = replace(keys["clinical"], _key=keys["stranger"]._key)
        (folder / "a/certificate.json").write_bytes(certify(evaluation(), forger)[1] or b"")
        found = read_history(folder, trusted=[keys["clinical"].public])
        assert found.records[0].signers == (keys["clinical"].public.id,)
        assert found.records[0].trusted_signers == ()

    def test_what_is_no_certificate_is_named(self, folder):
        """Broken, of another kind, larger than any certificate."""
        whole = (folder / "a/certificate.json").read_bytes()
        (folder / "broken.certificate.json").write_bytes(whole[:-1])
        (folder / "other.certificate.json").write_bytes(b"certificate")
        with (folder / "huge.json").open("wb") as huge:
            huge.write(b'{"dsseEnvelope":')
            huge.truncate(1 << 30)  # sparse
        found = read_history(folder)
        assert len(found.records) == 3
        assert [re.search(r"(\w+)[.\w]*\.json", sentence)[1] for sentence in found.useless] == [
            "broken",
            "huge",
            "other",
        ]  # type: ignore[index]

    def test_links_are_not_followed(self, folder, tmp_path):
        """A folder of certificates does not reach out of itself."""
        (tmp_path / "outside").mkdir()
        (folder / "a/certificate.json").rename(tmp_path / "outside/certificate.json")
        (folder / "link").symlink_to(tmp_path / "outside")
        (folder / "link.json").symlink_to(tmp_path / "outside/certificate.json")
        assert len(read_history(folder).records) == 2

    def test_nothing_to_show(self, tmp_path):
        """No folder, and no certificate in it."""
        with pytest.raises(UsageError, match="is not a folder"):
            read_history(tmp_path / "absent")
        with pytest.raises(UsageError, match="holds no certificate"):
            read_history(tmp_path)


@pytest.fixture
def hostile(tmp_path: Path, keys: dict[str, PrivateKey]) -> History:
    """Every outcome, under a name that would do harm; twice, by two checklists."""
    root = tmp_path / "<b>certificates"
    root.mkdir()
    printable = HOSTILE.replace("\u202e", "")
    for n, day in enumerate(("2026-02-03", "2026-05-06")):
        made = whole_evaluation(printable)
        made = replace(made, look=Look(n + 1, 3, f"{day}T04:05:06Z"))
        (root / f"{n}.certificate.json").write_bytes(certify(made, keys["clinical"])[1] or b"")
    return read_history(root)


class TestPage:
    def test_headline_counts_what_a_trusted_key_signed(self, folder, keys):
        """Where keys are given, a PASS that nobody trusted signed is none."""
        assert "1 PASS with a trusted signature" in history_page.headline(
            read_history(folder, trusted=[keys["ml"].public])
        )
        assert "0 PASS with a trusted" in history_page.headline(read_history(folder, trusted=[keys["stranger"].public]))

    def test_same_history_same_bytes(self, hostile):
        """And no name is markup."""
        page = history_page.html(hostile)
        assert page == history_page.html(hostile)
        assert "<b>" not in page.split("<script>")[0]
        assert "window.hacked=1</script>" not in page

    def test_says_what_it_is_no_evidence_for(self, folder):
        """Different test sets are not comparable, and no signature was verified."""
        page = history_page.html(read_history(folder))
        assert "Results on different test sets or checklists are not comparable." in page
        assert "No signature was verified" in page

    def test_one_trend_a_test_set(self, tmp_path, keys):
        """Validation and test images of one name are two; amounts and ranges have their units."""
        cost = replace(criterion("cost", "PASS"), estimate=Estimate("amount", 0.01396, n=1), threshold=100.0)
        stable = replace(criterion("stability", "PASS"), estimate=Estimate("range", 0.013, n=10), threshold=0.05)
        for n, split in enumerate(("val", "test", "test")):
            data = replace(evaluation().data, split=split, manifest_digest=f"sha256:{split.encode().hex():0<64}")
            made = evaluation(data=data, criteria=(cost, stable))
            made = replace(made, look=Look(n + 1, 3, f"2026-02-0{n + 1}T04:05:06Z"))
            (tmp_path / f"{n}.certificate.json").write_bytes(certify(made, keys["clinical"])[1] or b"")
        history = read_history(tmp_path)
        assert [r.judged_on for r in history.records] == [
            "clinic-a (val) 76616c00",
            "clinic-a (test) 74657374",
            "clinic-a (test) 74657374",
        ]
        page = history_page.html(history)
        found = re.search(r'id="drawings">(.*?)</script>', page)
        assert found is not None
        titles = {figure.name: figure.caption for figure in history_page.figures(history)}
        drawings = {titles[one["name"]]: one["layout"] for one in json.loads(found[1])}
        assert all(f"<figcaption>{title}</figcaption>" in page for title in titles.values())
        assert {title: len(layout["xaxis"]["categoryarray"]) for title, layout in drawings.items()} == {
            "Training cost, clinic-a (val) 76616c00": 1,
            "Training cost, clinic-a (test) 74657374": 2,
            "Stability of validation accuracy (range), clinic-a (val) 76616c00": 1,
            "Stability of validation accuracy (range), clinic-a (test) 74657374": 2,
        }
        assert {layout["yaxis"]["ticksuffix"] for layout in drawings.values()} == {" USD", " points"}
        assert re.search(r"0\.01.USD", page)
        assert re.search(r"1\.3.points", page)

    @pytest.mark.parametrize("width", [1280, 390])
    def test_works_offline_in_a_browser(self, browser: Any, hostile: History, tmp_path: Path, width: int):
        """It draws its figures, loads nothing and runs nothing of a name."""
        path = tmp_path / "history.html"
        path.write_text(history_page.html(hostile), encoding="utf-8")
        page = browser.new_context(offline=True, viewport={"width": width, "height": 900}).new_page()
        asked: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_selector("#figure-0 .main-svg")
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        assert complaints == []
        assert page.evaluate("window.hacked") is None
        assert page.locator("#figure-0 .errorbar").count() == 2
        assert page.evaluate("document.scrollingElement.scrollWidth") == width
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the results"


class TestCommand:
    def test_table_json_and_page(self, folder, drgate, tmp_path):
        """Three forms of one answer; nothing is overwritten unasked."""
        ended = drgate("history", folder, "--out", tmp_path / "history.html")
        assert ended.code == 0
        assert "1 model judged, 1 PASS, of which 1 signed (not verified)." in ended.out
        assert "No signature was verified" in ended.out
        assert (tmp_path / "history.html").read_text().startswith("<!doctype html>")
        assert drgate("history", folder, "--out", tmp_path / "history.html").code == 2
        plain = json.loads(drgate("history", folder, "--format", "json").out)
        assert [record["verdict"] for record in plain["records"]] == ["FAIL", "PASS", "FAIL"]
        assert plain["records"][1]["criteria"][0]["estimate"]["k"] == 95
