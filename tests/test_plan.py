"""Plans: patients of each grade, power, and what a test set can never show."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, nbinom

from drgate.checklist import load_checklist, parse_checklist
from drgate.cli import main
from drgate.errors import ChecklistError, DrgateError, UsageError
from drgate.evaluate import evaluate
from drgate.manifest import load_manifest
from drgate.metrics import MetricId
from drgate.plan import load_planned, parse_expect, parse_prevalence, plan, with_planning
from drgate.predictions import load_predictions
from drgate.report import plan as plan_page
from drgate.stats import power
from drgate.stats.proportion import exact_bounds
from tests.support.declaring import declaring

MIX = "no_dr=0.7,mild_npdr=0.1,moderate_npdr=0.14,severe_npdr=0.04,pdr=0.02"
APTOS = (361, 74, 200, 39, 59)
"""Images by grade of a 20 % split of APTOS 2019 whose PDR class has 59."""


def checklist_of(*criteria, **more):
    return parse_checklist({"name": "mine", "version": 1, "criteria": list(criteria)} | more, "mine")


def table_of(path, by_grade, *, images=1, **columns):
    rows = [
        {"image": f"{grade}-{i}-{eye}.png", "grade": grade, "predicted": 0, "patient": f"{grade}-{i}", **columns}
        for grade, n in enumerate(by_grade)
        for i, eye in itertools.product(range(n), range(images))
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def line(result, name):
    return next(found for found in result.lines if found.id == name)


SEVERE = {"id": "sensitivity:severe_npdr", "at_least": 0.90}
PDR = {"id": "sensitivity:pdr", "at_least": 0.95}
ONE_IMAGE = {"planning": {"two_images": 0.0}}


class TestPrintedNumbers:
    """Section 5 of the statistics, through the checklist."""

    def test_without_a_miss(self):
        """36 cases show .90, 72 show .95; with two images each 37 and 74 patients."""
        for two, expected in ((0.0, [36, 72]), (1.0, [37, 74])):
            found = plan(checklist_of(SEVERE, PDR, planning={"two_images": two}))
            assert [one.without_miss for one in found.lines] == expected

    @pytest.mark.parametrize(("looks", "patients"), [(1, 74), (2, 87), (3, 96)])
    def test_each_look_takes_its_share(self, looks, patients):
        """With two images each, 87 patients at alpha / 2 and 96 at alpha / 3."""
        found = plan(checklist_of(PDR, looks=looks, planning={"two_images": 1.0}))
        assert found.lines[0].without_miss == patients
        assert found.level == pytest.approx(1 - 0.05 / looks)

    @pytest.mark.parametrize(
        ("criterion", "true", "patients"),
        [(SEVERE, 0.96, (167, 206)), (SEVERE, 0.98, (85, 100)), (PDR, 0.985, (230, 285)), (PDR, 0.97, (851, 1106))],
    )
    def test_patients_from_which_the_power_stays(self, criterion, true, patients):
        """Both tables, for power 80 % and 90 %."""
        for wanted, n in zip((0.8, 0.9), patients, strict=True):
            asked = checklist_of(
                criterion, planning={"two_images": 0.0, "power": wanted}, expect={criterion["id"]: true}
            )
            assert plan(asked).lines[0].needed.patients == n

    def test_a_fifth_of_aptos_cannot_pass_the_pdr_line(self, tmp_path):
        """59 PDR images of independent patients: .939 at 59 of 59."""
        found = plan(load_checklist("medical-grade"), data=load_planned(table_of(tmp_path / "aptos.csv", APTOS)))
        pdr = line(found, "sensitivity:pdr").here
        assert (round(pdr.bound, 3), pdr.can_pass, pdr.power, pdr.images) == (0.939, False, 0.0, 59)
        assert pdr.bound == exact_bounds(59, 59, level=0.95).low
        assert line(found, "sensitivity:severe_npdr").here.can_pass
        assert found.exit_code == 1


class TestPower:
    def test_without_an_expected_value_none_is_invented(self):
        """No power and no number of patients, and a sentence that says so."""
        found = plan(checklist_of(SEVERE))
        assert (found.lines[0].expected, found.lines[0].needed) == (None, None)
        assert found.lines[0].why == "no expected true value stated"
        assert found.collection.without_expectation == ("sensitivity:severe_npdr",)
        assert any("sensitivity:severe_npdr" in note for note in found.notes)

    def test_a_rate_that_must_stay_low_is_the_mirrored_line(self):
        """At most 5 % with .02 expected takes what at least 95 % with .98 takes."""
        low = plan(checklist_of({"id": "no_output", "at_most": 0.05}, expect={"no_output": 0.02}, **ONE_IMAGE)).lines[0]
        assert (low.needed.patients, low.without_miss) == (338, 72)

    @pytest.mark.parametrize("true", [0.85, 0.90, 0.9001])
    def test_no_realistic_number_is_an_answer(self, true):
        """A truth at, below or a hair above the threshold."""
        found = plan(checklist_of(SEVERE, expect={"severe_npdr": true}))
        assert found.lines[0].needed is None
        assert "expected true value" in found.lines[0].why
        assert found.collection is None

    def test_the_curve_is_the_binomial_one(self):
        """With one image a patient every point is a binomial sum over the passing counts."""
        found = plan(checklist_of(SEVERE, expect={"severe_npdr": 0.96}, **ONE_IMAGE)).lines[0]
        assert len(found.curve) > 10
        for n, chance in found.curve:
            passes = [k for k in range(n + 1) if exact_bounds(k, n, level=0.95).low >= 0.90]
            assert chance == pytest.approx(binom.pmf(passes, n, 0.96).sum() if passes else 0.0, abs=1e-12)

    def test_power_multiplies(self):
        """Jointly, the required lines' powers on the smallest test set; advisory lines do not count."""
        advisory = {"id": "sensitivity:moderate_npdr", "at_least": 0.9, "required": False}
        expect = {"severe_npdr": 0.96, "pdr": 0.985, "moderate_npdr": 0.96}
        found = plan(checklist_of(SEVERE, PDR, advisory, expect=expect, **ONE_IMAGE))
        assert found.joint_power == pytest.approx(found.lines[0].needed.power * found.lines[1].needed.power)
        assert found.collection.by_grade["moderate_npdr"] == 0

    def test_on_estimates_the_counts_decide(self):
        """Power of an observed .95 of 40 is the chance of at least 38: compared exactly, without the bound."""
        asked = checklist_of(PDR, evidence={"decide_on": "point"}, expect={"pdr": 0.97}, **ONE_IMAGE)
        found = plan(asked).lines[0]
        assert dict(found.curve)[found.needed.patients] == found.needed.power
        assert found.needed.power == pytest.approx(
            sum(
                binom.pmf(k, found.needed.patients, 0.97)
                for k in range(found.needed.patients + 1)
                if 20 * k >= 19 * found.needed.patients
            )
        )


KAPPA = {"id": "quadratic_kappa", "at_least": 0.8}


class TestKappa:
    @pytest.mark.parametrize(
        ("id_", "weights"), [("kappa", "none"), ("linear_kappa", "linear"), ("quadratic_kappa", "quadratic")]
    )
    def test_all_three_are_planned_at_the_stated_prevalence(self, id_, weights):
        """Patients without an error and for the power, and what was assumed; by patient, one unit each."""
        asked = checklist_of({"id": id_, "at_least": 0.7}, expect={id_: 0.9}, unit="patient")
        found = plan(asked, prevalence=parse_prevalence(MIX)).lines[0]
        mix = tuple(parse_prevalence(MIX).values())
        at = {"weights": weights, "mix": mix, "level": 0.95}
        assert (found.why, found.mix, found.grades) == ("", mix, ())
        assert found.one_off == power.one_grade_off(0.9, weights=weights, mix=mix)
        assert found.without_miss == power.kappa_without_miss(0.7, **at)
        assert found.needed == power.patients_for_kappa(0.7, true=0.9, target=0.8, **at)
        assert dict(found.curve)[found.needed.patients] == found.needed.power
        assert [chance for _, chance in found.curve] == sorted(chance for _, chance in found.curve)

    def test_the_grades_are_those_stated_else_of_the_test_set_else_at_deployment(self, tmp_path):
        """In this order; on the test set itself its own count."""
        stated, deployment = parse_prevalence(MIX), dict.fromkeys(parse_prevalence(MIX), 0.2)
        given = load_planned(table_of(tmp_path / "t.csv", (60, 50, 40, 30, 20)))
        asked = checklist_of(KAPPA, expect={"quadratic_kappa": 0.9}, deployment=deployment)
        own = (0.3, 0.25, 0.2, 0.15, 0.1)
        both = plan(asked, prevalence=stated, data=given).lines[0]
        assert both.mix == tuple(stated.values())
        assert plan(asked, data=given).lines[0].mix == pytest.approx(own)
        assert plan(asked).lines[0].mix == (0.2,) * 5
        assert (
            both.here.power
            == power.passing_kappa(0.8, true=0.9, weights="quadratic", mix=own, level=0.95, counts=[200]).probability
        )
        assert (both.here.method, both.here.images, both.here.patients) == ("simulated", 200, 200)

    def test_without_grades_it_says_what_it_needs(self):
        """No number is made up."""
        found = plan(checklist_of(KAPPA, expect={"quadratic_kappa": 0.9})).lines[0]
        assert (found.without_miss, found.needed, found.mix) == (None, None, ())
        assert "--prevalence, --data" in found.why

    @pytest.mark.parametrize(
        ("true", "said"), [(0.8, "does not exceed"), (0.801, "too close"), (None, "no expected"), (0.85, "")]
    )
    def test_no_number_has_a_reason(self, true, said):
        """As for proportions."""
        asked = checklist_of(KAPPA, expect={} if true is None else {"quadratic_kappa": true})
        found = plan(asked, prevalence=parse_prevalence(MIX)).lines[0]
        assert said in found.why
        assert (found.needed is None) == bool(said)

    def test_errors_of_one_grade_may_not_reach_the_expectation(self):
        """Every image one grade off leaves quadratic kappa at .71 where all grades are as frequent."""
        asked = checklist_of({"id": "quadratic_kappa", "at_least": 0.5}, expect={"quadratic_kappa": 0.6})
        found = plan(asked, prevalence=dict.fromkeys(parse_prevalence(MIX), 0.2)).lines[0]
        assert (found.needed, found.one_off) == (None, None)
        assert "errors of one grade" in found.why

    @pytest.mark.parametrize("images", [1, 2])
    @pytest.mark.parametrize("declared", [None, 2])
    def test_never_means_that_a_perfect_model_does_not_pass(self, tmp_path, images, declared):
        """Evaluating a model without an error on the same images agrees, with known and with declared patients."""
        for each in (12, 30):
            path = table_of(tmp_path / f"{each}.csv", [each] * 5, images=images)
            rows = pd.read_csv(path)
            if declared:
                rows["image"] = [f"{'abcdefgh'[i % 8]}{i * 7919}.png" for i in rows.index]
                rows = rows.drop(columns="patient")
            rows.assign(predicted=rows["grade"]).to_csv(path, index=False)
            given = load_planned(path)
            asked = checklist_of(KAPPA, expect={"quadratic_kappa": 0.95})
            asked = asked if declared is None else declaring(asked, given, declared)
            found = plan(asked, data=given)
            judged = evaluate(load_predictions(path), asked).criteria[0]
            here, worth = found.lines[0].here, each * images / (declared or images)
            assert here.bound == pytest.approx(judged.estimate.low, abs=1e-12)
            assert here.can_pass == (judged.status == "PASS") == (worth >= 14)
            assert (here.power == 0.0) == (not here.can_pass)
            assert found.exit_code == (0 if here.can_pass else 1)

    def test_one_grade_has_no_kappa(self, tmp_path):
        """Nothing can be shown of it."""
        given = load_planned(table_of(tmp_path / "t.csv", (200, 0, 0, 0, 0)))
        found = plan(checklist_of(KAPPA), data=given)
        assert (found.exit_code, found.lines[0].without_miss) == (1, None)
        assert "not defined" in found.lines[0].here.why

    def test_an_estimate_is_planned_by_the_estimate(self):
        """From two patients on kappa is defined; the power is that of the estimate, which is higher."""
        asked = {"expect": {"quadratic_kappa": 0.9}, "unit": "patient"}
        bound, point = (
            plan(checklist_of(KAPPA, evidence={"decide_on": on}, **asked), prevalence=parse_prevalence(MIX)).lines[0]
            for on in ("bound", "point")
        )
        assert point.without_miss == 2
        assert point.needed.patients < bound.needed.patients

    def test_pages_say_the_numbers_as_kappas_and_what_is_assumed(self, tmp_path):
        """No percentages of a kappa; the smallest test set says that kappa is not in it."""
        given = load_planned(table_of(tmp_path / "t.csv", (12, 12, 12, 12, 12)))
        asked = checklist_of(KAPPA, SEVERE, expect={"quadratic_kappa": 0.9, "severe_npdr": 0.96}, **ONE_IMAGE)
        found = plan(asked, data=given)
        row = plan_page.rows(found)[0]
        assert (row.cells[:3], row.here[:2], row.can_pass) == (
            ("≥\N{NO-BREAK SPACE}0.8", "0.900", "70"),
            ("60", "0.770"),
            "never",
        )
        assert plan_page.impossible(found)[0] == (
            "Kappa, quadratic weights (≥\N{NO-BREAK SPACE}0.8): 60 images of 60 patients: even without an error the "
            "lower limit is 0.769; at least 70 patients of this mix of grades are needed."
        )
        assumed = next(note for note in plan_page.notes(found) if "by one grade" in note)
        assert "kappa is 0.9 with errors in 37.7\N{NO-BREAK SPACE}% of images" in assumed
        collected = plan_page.headline(plan(asked, prevalence=parse_prevalence(MIX)))
        assert "criteria planned by grade with probability" in collected
        assert collected.endswith("; not planned by grade: Kappa, quadratic weights.")
        assert json.loads(json.dumps(found.to_json()))["lines"][0]["mix"] == [0.2] * 5


class TestCollection:
    def test_the_smallest_set_by_brute_force(self):
        """No set with fewer patients gives every line its number."""
        lines = [
            {"id": "sensitivity:severe_npdr", "at_least": 0.3},
            {"id": "sensitivity:vision_threatening", "at_least": 0.5},
            {"id": "specificity:pdr", "above": 0.6},
            {"id": "accuracy", "at_least": 0.55},
        ]
        found = plan(checklist_of(*lines, **ONE_IMAGE))
        needs = [(one.grades, one.without_miss) for one in found.lines]
        grades = list(found.collection.by_grade)
        most = max(n for _, n in needs) + 1
        fewest = min(
            sum(counts)
            for counts in itertools.product(range(most), repeat=5)
            if all(sum(counts[grades.index(g)] for g in which) >= n for which, n in needs)
        )
        assert found.collection.patients == fewest
        for which, n in needs:
            assert sum(found.collection.by_grade[grade] for grade in which) >= n

    def test_the_scarcest_grade_sets_the_screening(self):
        """Expected n / share, and the negative binomial's 90 % point, of the grade that takes most."""
        found = plan(checklist_of(SEVERE, PDR, **ONE_IMAGE), prevalence=parse_prevalence(MIX)).collection
        assert found.by_grade == {"no_dr": 0, "mild_npdr": 0, "moderate_npdr": 0, "severe_npdr": 36, "pdr": 72}
        assert (found.bottleneck, found.screened_expected) == ("pdr", 3600)
        assert found.screened == 72 + nbinom.ppf(0.9, 72, 0.02)

    def test_the_deployment_mix_is_the_prevalence_unless_another_is_stated(self):
        """The checklist's own mix serves."""
        mix = dict(
            zip(("no_dr", "mild_npdr", "moderate_npdr", "severe_npdr", "pdr"), (0.6, 0.1, 0.1, 0.1, 0.1), strict=True)
        )
        found = plan(checklist_of(PDR, deployment=mix, **ONE_IMAGE))
        assert (found.collection.prevalence, found.collection.screened_expected) == (mix, 720)

    def test_a_grade_that_nobody_has_is_not_found(self):
        """A prevalence of 0 for a grade that is needed."""
        found = plan(
            checklist_of(PDR), prevalence=parse_prevalence("no_dr=1,mild_npdr=0,moderate_npdr=0,severe_npdr=0,pdr=0")
        )
        assert found.collection.screened is None
        assert any("prevalence is 0" in note for note in found.notes)


class TestGivenTestSet:
    def test_never_means_that_a_perfect_model_does_not_pass(self, tmp_path):
        """Evaluating a model without a miss on the same images agrees, line by line."""
        for images, by_grade in (
            (1, APTOS),
            (2, (60, 50, 40, 37, 74)),
            (2, (60, 50, 40, 36, 73)),
            (3, (9, 9, 9, 40, 80)),
        ):
            path = table_of(tmp_path / f"{images}-{by_grade[4]}.csv", by_grade, images=images)
            rows = pd.read_csv(path)
            perfect = tmp_path / "perfect.csv"
            rows.assign(predicted=rows["grade"]).to_csv(perfect, index=False)
            checklist = load_checklist("medical-grade-safe")
            found = plan(checklist, data=load_planned(path))
            judged = {one.id: one for one in evaluate(load_predictions(perfect), checklist).criteria}
            for one in found.lines:
                assert one.here.can_pass == (judged[one.id].status == "PASS"), one.id
                low, high = judged[one.id].estimate.low, judged[one.id].estimate.high
                assert one.here.bound == pytest.approx(low if one.comparator in (">=", ">") else high, abs=1e-12)

    def test_the_answers_of_a_model_are_not_looked_at(self, tmp_path):
        """A table with all answers wrong plans as one with all right."""
        wrong = table_of(tmp_path / "a.csv", APTOS)
        rows = pd.read_csv(wrong)
        rows.assign(predicted=rows["grade"]).to_csv(tmp_path / "b.csv", index=False)
        first, second = (
            plan(load_checklist("medical-grade"), data=load_planned(p)) for p in (wrong, tmp_path / "b.csv")
        )
        assert first.lines == second.lines

    def test_without_patients_a_declaration_is_needed(self, tmp_path):
        """72 PDR images without a patient column show .95 where one image a patient is declared, and only there."""
        path = table_of(tmp_path / "t.csv", (1, 0, 0, 0, 72))
        rows = pd.read_csv(path).drop(columns="patient")
        rows.to_csv(path, index=False)
        given = load_planned(path)
        for most, patients in ((None, None), (2, None), (1, 72)):
            asked = checklist_of(PDR) if most is None else declaring(checklist_of(PDR), given, most)
            found = plan(asked, data=given)
            assert (found.exit_code, found.lines[0].here.patients) == (0 if patients else 1, patients)
            assert any(given.test_set in note for note in found.notes) == (most is None)

    def test_a_grade_that_is_absent_can_never_pass(self, tmp_path):
        """No case, no line."""
        found = plan(checklist_of(PDR), data=load_planned(table_of(tmp_path / "t.csv", (5, 5, 5, 5, 0))))
        assert (found.never, found.exit_code, found.lines[0].here.why) == (
            ("sensitivity:pdr",),
            1,
            "no case in this test set",
        )

    def test_an_advisory_line_does_not_close(self, tmp_path):
        """Only required lines decide the exit code."""
        found = plan(
            checklist_of({"id": "accuracy", "at_least": 0.5}, {**PDR, "required": False}),
            data=load_planned(table_of(tmp_path / "t.csv", (30, 0, 0, 0, 3))),
        )
        assert (found.never, found.exit_code) == (("sensitivity:pdr",), 0)

    def test_slices_are_planned_each(self, tmp_path):
        """Each value of the column, and fewer positives than asked for is never."""
        path = table_of(tmp_path / "t.csv", (50, 0, 0, 0, 40))
        rows = pd.read_csv(path)
        rows.assign(camera=np.where(rows.index % 3 == 0, "A", "B")).to_csv(path, index=False)
        asked = checklist_of(
            {"id": "accuracy", "at_least": 0.5},
            {"id": "sensitivity:pdr@camera=each", "at_least": 0.5},
            slices=[{"by": "camera", "min_positives": 20}],
        )
        found = plan(asked, data=load_planned(path))
        assert [one.id for one in found.lines[1:]] == ["sensitivity:pdr@camera=A", "sensitivity:pdr@camera=B"]
        assert found.never == ("sensitivity:pdr@camera=A",)

    @pytest.mark.parametrize("images", [1, 2, 3])
    def test_patients_needed_are_those_that_an_evaluation_names(self, tmp_path, images):
        """Both take the images per patient from the data, not from the planning's share of pairs."""
        path = table_of(tmp_path / "t.csv", (30, 0, 0, 0, 75), images=images)
        checklist = checklist_of({"id": "sensitivity:pdr", "at_least": 0.95}, expect={"pdr": 0.985})
        needed = plan(checklist, data=load_planned(path)).lines[0].needed.patients
        rows = pd.read_csv(path)
        missed = rows["image"].isin(["4-0-0.png", "4-1-0.png"])
        rows.assign(predicted=rows["grade"].mask(missed, 3)).to_csv(path, index=False)
        judged = evaluate(load_predictions(path), checklist).criteria[0]
        assert f"{needed} patients" in judged.reason

    @pytest.mark.parametrize("columns", [("image", "grade"), ("id_code", "diagnosis"), ("image", "level")])
    def test_labels_serve_without_their_images(self, tmp_path, columns):
        """Planning reads grades, patients and splits; a public CSV's too."""
        names = [f"{i}_{eye}" for i in range(90) for eye in ("left", "right")]
        pd.DataFrame(dict(zip(columns, (names, [4, 0] * 90), strict=True))).to_csv(tmp_path / "l.csv", index=False)
        found = plan(checklist_of({"id": "sensitivity:pdr", "at_least": 0.5}), data=load_planned(tmp_path / "l.csv"))
        assert found.data["by_grade"] == [90, 0, 0, 0, 90]
        assert found.data["patients"] == (90 if "level" in columns else None)

    def test_a_folder_of_images_is_read_as_a_manifest(self, tmp_path):
        """split/grade/*: the split that is asked for, a split that is not there is refused."""
        for grade in range(5):
            folder = tmp_path / "set" / "test" / str(grade)
            folder.mkdir(parents=True)
            for i in range(grade + 1):
                (folder / f"{i}-{grade}.png").write_bytes(bytes([grade, i]))
        assert len(load_planned(tmp_path / "set")) == 15
        with pytest.raises(DrgateError, match="split"):
            load_planned(tmp_path / "set", split="val")

    def test_a_sealed_set_cannot_be_planned_with(self, tmp_path):
        """Without reference grades there is nothing to count."""
        path = table_of(tmp_path / "t.csv", (3, 0, 0, 0, 0))
        pd.read_csv(path).drop(columns="grade").to_csv(path, index=False)
        with pytest.raises(DrgateError, match="no reference grades"):
            load_planned(path)


class TestBadInput:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("no_dr=0.7,pdr=0.3", "lacks"),
            (MIX.replace("0.02", "0.03"), "sum to 1.01"),
            (MIX.replace("0.7", "70"), "did you mean 0.7"),
            (MIX.replace("mild_npdr", "mild_npd"), "did you mean 'mild_npdr'"),
            ("no_dr", "not name=number"),
            ("no_dr=nan", "not name=number"),
            (f"{MIX},pdr=0.02", "twice"),
        ],
    )
    def test_a_prevalence_is_five_shares_that_sum_to_one(self, text, said):
        """One sentence, with the hint where one is at hand."""
        with pytest.raises(UsageError, match=said):
            parse_prevalence(text)

    def test_expected_values_are_fractions_of_what_there_is(self):
        """98.5 for 0.985 and a misspelt grade are refused with a hint."""
        checklist = load_checklist("medical-grade")
        with pytest.raises(UsageError, match=r"did you mean 0\.985"):
            with_planning(checklist, expect=parse_expect("pdr=98.5"))
        with pytest.raises(ChecklistError, match="did you mean 'pdr'"):
            with_planning(checklist, expect=parse_expect("prd=0.9"))

    @pytest.mark.parametrize("name", ["power", "two_images", "correlation"])
    def test_assumptions_are_fractions(self, name):
        """80 for 0.8 is refused."""
        with pytest.raises(UsageError, match=r"did you mean 0\.8"):
            with_planning(load_checklist("medical-grade"), **{name: 80})

    def test_what_is_stated_beside_overrides(self):
        """--expect adds to the checklist's own and wins where both speak."""
        asked = with_planning(load_checklist("medical-grade"), expect={"pdr": 0.99}, power=0.9, two_images=0.0)
        assert [asked.expected(MetricId("sensitivity", grade)) for grade in ("pdr", "severe_npdr")] == [0.99, 0.96]
        assert plan(asked).lines[2].needed.patients == 202


class TestPages:
    @pytest.fixture
    def found(self, tmp_path):
        path = table_of(tmp_path / "t.csv", (40, 10, 20, 39, 59))
        checklist = checklist_of(SEVERE, PDR, {"id": "cost", "below": 100, "unit": "USD"}, expect={"pdr": 0.985})
        return plan(checklist, prevalence=parse_prevalence(MIX), data=load_planned(path))

    def test_the_numbers_are_plain_json(self, found):
        """No NaN, no None, and the lines that can never pass by id."""
        plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
        assert plain["never"] == ["sensitivity:pdr"]
        assert "null" not in json.dumps(plain)
        assert plain["collection"]["bottleneck"] == "pdr"

    def test_the_page_is_the_same_every_time_and_loads_nothing(self, found):
        """Same plan, same bytes; no address to load from outside the drawing library."""
        page = plan_page.html(found)
        assert page == plan_page.html(found)
        assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
        assert "<link" not in page
        assert "src=" not in page.split('id="drawings"')[0].replace("-src", "")

    def test_the_page_says_what_can_never_pass(self, found):
        """The headline, the reason with its bound, and what was not planned."""
        page = plan_page.html(found)
        assert "mine version 1: no model can pass this required criterion on this test set: Sensitivity, PDR." in page
        assert "even without an error the lower limit is 93.9 %; at least 72 patients with PDR are needed." in page
        assert "Training cost" in page

    def test_the_headline_promises_no_more_than_the_joint_power(self):
        """Who is in the set, how many are screened and how often a good model passes; what no patient was asked for."""
        checklist = checklist_of(SEVERE, PDR, expect={"severe_npdr": 0.96, "pdr": 0.985}, **ONE_IMAGE)
        found = plan(checklist, prevalence=parse_prevalence(MIX))
        chance = found.lines[0].needed.power * found.lines[1].needed.power
        assert plan_page.headline(found) == (
            "mine version 1: 397 patients (Severe NPDR 167, PDR 230), found among about 11,500 screened; a model "
            "with the expected true values passes all required criteria with probability "
            f"{100 * chance:.0f}\N{NO-BREAK SPACE}%."
        )
        together, absent = plan_page.advice(found)
        assert "(--power 0.895)" in together  # sqrt(.8) = .8944
        assert plan(with_planning(checklist, power=0.895)).joint_power >= 0.8
        assert "The criteria need no patient with No DR or Mild NPDR or Moderate NPDR." in absent
        assert 'class="verdict NOT_ASSESSED"' in plan_page.html(found)

    def test_the_headline_of_a_test_set_answers_for_it(self, tmp_path):
        """Every line can pass: how often all do; the split and its share of the images are named."""
        path = table_of(tmp_path / "labels.csv", (0, 0, 0, 320, 450))
        rows = pd.read_csv(path).drop(columns="predicted")
        rows.assign(split=np.where(rows.index % 2, "test", "train")).to_csv(path, index=False)
        checklist = checklist_of(SEVERE, PDR, expect={"severe_npdr": 0.96, "pdr": 0.985}, **ONE_IMAGE)
        found = plan(checklist, data=load_planned(path))
        both = found.lines[0].here.power * found.lines[1].here.power
        assert plan_page.headline(found).startswith(
            "mine version 1: every required criterion can be passed on this test set; a model with the expected "
            f"true values passes all with probability {100 * both:.0f}\N{NO-BREAK SPACE}%."
        )
        assert f"{path}, test split: 385 of 770 images; judged: 385 images" in dict(plan_page.facts(found))["Test set"]

    def test_a_hostile_file_name_stays_text(self, found):
        """Markup in the name of a test set does not become markup."""
        named = dataclasses.replace(found, data={**found.data, "origin": "<img onerror=x>.csv"})
        assert "<img onerror" not in plan_page.html(named)


class TestCommand:
    @pytest.fixture
    def run(self):
        def call(*arguments):
            with pytest.raises(SystemExit) as ended:
                main(["plan", *map(str, arguments)])
            return ended.value.code

        return call

    def test_exit_codes(self, run, tmp_path, capsys):
        """0 planned, 1 a required line can never pass, 2 bad input in one line."""
        few = table_of(tmp_path / "few.csv", (40, 0, 0, 0, 59))
        assert run("medical-grade") == 0
        assert run("medical-grade", "--data", few) == 1
        capsys.readouterr()
        assert run("medical-grade", "--prevalence", "no_dr=1.5") == 2
        heard = capsys.readouterr()
        assert heard.out == ""
        assert heard.err.count("\n") == 1

    def test_json_alone_on_standard_output_and_a_page_beside(self, run, tmp_path, capsys):
        """The page is written whole; an existing one is not overwritten."""
        page = tmp_path / "plan.html"
        assert run("medical-grade", "--out", page, "--format", "json") == 0
        heard = capsys.readouterr()
        assert json.loads(heard.out)["spec"]["name"] == "medical-grade"
        assert page.read_text().startswith("<!doctype html>")
        assert run("medical-grade", "--out", page) == 2


def test_a_manifest_without_patients_is_declared_by_its_digest(tmp_path: Path, photographs):
    """The digest that scoring records of it, so that one declaration serves plan, tune and evaluate."""
    names = [f"{i}.png" for i in range(3)]
    folder = photographs(*names)
    pd.DataFrame({"image": names, "grade": [4] * 3}).to_csv(folder / "labels.csv", index=False)
    given = load_planned(folder)
    assert given.test_set == load_manifest(folder).digest()
    assert any(given.test_set in note for note in plan(checklist_of(PDR), data=given).notes)
    pd.DataFrame({"image": names, "grade": [4] * 3, "patient": list("qwe")}).to_csv(folder / "labels.csv", index=False)
    assert "manifest" not in load_planned(folder).provenance, "no file is read where patients are named"
