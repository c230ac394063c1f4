"""Units with several images: each metric against a plain loop over units, and the eye that is wrong end to end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from drgate.checklist import Checklist, load_checklist, parse_checklist
from drgate.compare import accuracy_difference
from drgate.evaluate import evaluate
from drgate.evaluation import Estimate, Evaluation, NotEstimable
from drgate.measure import Metrics
from drgate.metrics import MetricId, measured, parse_id
from drgate.operating_point import OperatingPoint
from drgate.predictions import Predictions, make_predictions
from drgate.sample import Pair, Sample
from drgate.scale import GRADES, GROUPS
from drgate.tune import tune

KEYS = {"image": ["image"], "eye": ["patient", "eye"], "patient": ["patient"]}


def checklist_of(**changes: Any) -> Checklist:
    content: dict[str, Any] = {
        "name": "small",
        "version": 1,
        "bootstrap": {"resamples": 1000},
        "criteria": [{"id": "sensitivity:pdr", "at_least": 0.5}],
    }
    return parse_checklist(content | changes, "x")


def predictions(table: pd.DataFrame) -> Predictions:
    return make_predictions(table, "ours.csv", {})


def drawn(seed: int, *, dme: bool, patients: int = 40, most: int = 4) -> pd.DataFrame:
    """One to four images a patient, both eyes mixed; answers often wrong, one in ten missing; two clinics."""
    generator = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), generator.integers(1, most + 1, patients))
    n = len(owner)
    grade = generator.integers(0, 5, n)
    answer = pd.array(np.where(generator.random(n) < 0.6, grade, generator.integers(0, 5, n)), dtype="Int64")
    answer[generator.random(n) < 0.1] = pd.NA
    table = pd.DataFrame(
        {
            "image": [f"{i:04d}.png" for i in range(n)],
            "patient": [f"P{i}" for i in owner],
            "eye": generator.choice(["L", "R"], n),
            "clinic": np.where(owner % 3 == 0, "A", "B"),
            "grade": grade,
            "predicted": answer,
        }
    )
    if dme:
        table["dme"] = generator.random(n) < 0.2
    return table


class Unit:
    """One eye or patient, by the rows of its images, spelled out as docs/statistics.md does."""

    def __init__(self, rows: pd.DataFrame) -> None:
        dme = rows["dme"] if "dme" in rows else [False] * len(rows)
        self.images = [
            (int(grade), None if pd.isna(answer) else int(answer), bool(oedema))
            for grade, answer, oedema in zip(rows["grade"], rows["predicted"], dme, strict=True)
        ]
        self.grade = max(grade for grade, _, _ in self.images)
        self.silent = any(answer is None for _, answer, _ in self.images)

    def exact(self) -> int | None:
        if self.silent:
            return None
        worst = max(answer for _, answer, _ in self.images if answer is not None)
        having_it = [answer for grade, answer, _ in self.images if grade == self.grade and answer is not None]
        return max(having_it) if worst == self.grade and self.grade not in having_it else worst

    def belongs(self, group: str) -> bool:
        return bool(self._of(group))

    def _of(self, group: str) -> list[int | None]:
        """The answers to the images that are themselves in the group."""
        oedema = group in ("referable", "vision_threatening")
        return [answer for grade, answer, dme in self.images if grade in GROUPS[group] or (oedema and dme)]

    def called(self, group: str) -> bool | None:
        return None if self.silent else any(answer in GROUPS[group] for _, answer, _ in self.images)

    def right_eye(self, group: str) -> bool | None:
        """None where no answer can be had without an image that has none."""
        if any(answer in GROUPS[group] for answer in self._of(group)):
            return None if self.silent else True
        return None if None in self._of(group) else False

    def below(self) -> bool | None:
        """Whether a vision-threatening image is below referable."""
        answers = [answer for grade, answer, _ in self.images if grade in GROUPS["vision_threatening"]]
        if any(answer is not None and answer < 2 for answer in answers):
            return True
        return None if self.silent else False


def naive(units: list[Unit], metric: MetricId, policy: str) -> tuple[int, int]:
    """Events and units of one share; `None` is an answer that is absent, which the policy decides."""
    name, target = metric.metric, metric.target
    counted: list[tuple[bool, bool]] = []  # whether it counts, whether it is the event

    def member(unit: Unit) -> bool:
        return unit.belongs(target) if target in GROUPS else unit.grade == GRADES.index(target)

    def called(unit: Unit) -> bool | None:
        if target in GROUPS:
            return unit.called(target)
        exact = unit.exact()
        return None if exact is None else exact == GRADES.index(target)

    for unit in units:
        if name == "reference_ungradable":  # of images, whatever the unit; here each has a reference grade
            counted += [(True, False)] * len(unit.images)
        elif name == "no_output":
            counted.append((not target or member(unit), unit.silent))
        elif name in ("accuracy", "undergraded", "overgraded") and target in ("", "by_two"):
            exact, room = unit.exact(), {"undergraded": unit.grade, "overgraded": 4 - unit.grade}.get(name, 0)
            if exact is None:
                counted.append((policy == "worst_case", name != "accuracy" and room >= 2))
            else:
                off = {"undergraded": unit.grade - exact, "overgraded": exact - unit.grade}.get(name, 0)
                counted.append((True, exact == unit.grade if name == "accuracy" else off >= 2))
        elif name == "undergraded":
            below = unit.below()
            counted.append(
                (
                    unit.grade >= 3 and (below is not None or policy != "excluded"),
                    policy == "worst_case" if below is None else below,
                )
            )
        elif name in ("sensitivity", "missed", "right_eye_sensitivity"):
            hit = unit.right_eye(target) if name == "right_eye_sensitivity" else called(unit)
            counts = member(unit) and (hit is not None or policy != "excluded")
            hit = policy == "as_referred" if hit is None else hit
            counted.append((counts, hit != (name == "missed")))
        elif name == "specificity":
            positive = called(unit)
            counted.append((not member(unit) and (positive is not None or policy != "excluded"), positive is False))
        elif name == "ppv":
            positive = called(unit)
            if positive is None:
                positive = policy == "as_referred" or (policy == "worst_case" and not member(unit))
            counted.append((positive, member(unit)))
        else:
            assert name == "npv", name
            positive = called(unit)
            cleared = policy == "worst_case" and member(unit) if positive is None else not positive
            counted.append((cleared, not member(unit)))
    return sum(event for counts, event in counted if counts), sum(counts for counts, _ in counted)


def policies(metric: MetricId) -> list[Any]:
    if not metric.about.policies:
        return ["excluded"]
    return ["excluded", "worst_case", *(["as_referred"] if metric.default_policy == "as_referred" else [])]


def units_of(table: pd.DataFrame, unit: str) -> list[Unit]:
    return [Unit(rows) for _, rows in table.groupby(KEYS[unit])]


class TestEveryMetric:
    @pytest.mark.parametrize("dme", [False, True])
    @pytest.mark.parametrize("unit", ["image", "eye", "patient"])
    def test_shares_are_those_of_a_plain_loop(self, unit: str, dme: bool):
        """Every share under every policy, whole and in a slice (which a patient is in or not)."""
        slices: list[tuple[str, str]] = [("", "")] if unit == "eye" else [("", ""), ("clinic", "A"), ("clinic", "B")]
        for seed in range(12):
            table = drawn(seed, dme=dme)
            sample = Sample.of(predictions(table), checklist_of(unit=unit, slices=[{"by": "clinic"}]))
            for column, value in slices:
                units = units_of(table[table["clinic"] == value] if column else table, unit)
                for metric in measured():
                    if not metric.about.is_share or metric.about.of_reference:  # of all images: tests/test_refusals.py
                        continue
                    tally = sample.tally_of(metric.but(column=column, value=value))
                    assert tally is not None
                    for policy in policies(metric):
                        ratio = metric.about.ratio(metric.target, policy)
                        k, n = ratio.terms(tally.table)
                        assert (int(k), int(n)) == naive(units, metric, policy), (seed, metric, policy, column)
                        each, sizes = ratio.terms(tally.patterns)
                        assert (tally.counts @ each, tally.counts @ sizes) == (k, n)

    @pytest.mark.parametrize("unit", ["eye", "patient"])
    def test_kappa_balanced_accuracy_and_rates(self, unit: str):
        """Of the exact answers kappa and balanced accuracy, of the referral the ratios of a group."""
        for seed in range(3):
            table = drawn(seed, dme=False, patients=300, most=2)
            checklist = checklist_of(unit=unit)
            metrics = Metrics(Sample.of(predictions(table), checklist), checklist, 0.95, 1)
            units = [one for one in units_of(table, unit) if not one.silent]
            truth, exact = [one.grade for one in units], [one.exact() for one in units]
            expected = {
                "kappa": sk.cohen_kappa_score(truth, exact, labels=range(5)),
                "linear_kappa": sk.cohen_kappa_score(truth, exact, labels=range(5), weights="linear"),
                "quadratic_kappa": sk.cohen_kappa_score(truth, exact, labels=range(5), weights="quadratic"),
                "balanced_accuracy": sk.balanced_accuracy_score(truth, exact),
            }
            for group in GROUPS:
                inside, called = ([f(one) for one in units] for f in (_member(group), _called(group)))
                hit, cleared = sk.recall_score(inside, called), sk.recall_score(np.invert(inside), np.invert(called))
                expected[f"youden:{group}"] = hit + cleared - 1
                expected[f"positive_likelihood_ratio:{group}"] = hit / (1 - cleared) if cleared < 1 else None
            for name, value in expected.items():
                found = metrics.estimate(parse_id(name), "excluded")
                if isinstance(found, NotEstimable):
                    assert value is None, (name, found.reason)
                else:
                    assert found.value == pytest.approx(value), name

    @pytest.mark.parametrize("unit", ["eye", "patient"])
    def test_the_shown_table_is_that_of_exact_answers(self, unit: str):
        table = drawn(3, dme=False)
        found = evaluate(predictions(table), checklist_of(unit=unit))
        counted = np.zeros((5, 6), dtype=int)
        for one in units_of(table, unit):
            exact = one.exact()
            counted[one.grade, 5 if exact is None else exact] += 1
        assert np.array_equal(found.confusion_matrix, counted[:, :5])
        assert np.array_equal(found.no_output, counted[:, 5])

    @pytest.mark.parametrize("unit", ["eye", "patient"])
    def test_a_pair_reads_the_same_answers(self, unit: str):
        """Right is an exact answer; a group's cells are the referral; the criterion `baseline` is their balance."""
        one, other = drawn(1, dme=True), drawn(1, dme=True)
        other["predicted"] = other["predicted"].sample(frac=1, random_state=2).to_numpy()
        pair = Pair.of(predictions(one), predictions(other), unit=unit)
        alone = [Sample.of(predictions(table), checklist_of(unit=unit)) for table in (one, other)]
        right = [sum(u.exact() == u.grade for u in units_of(table, unit)) for table in (one, other)]
        assert [int(flags.sum()) for flags in pair.right] == right
        for target in ("", "pdr", *GROUPS, "vision_threatening_below_referable"):
            for cells, sample in zip(pair.cells(target), alone, strict=True):
                assert np.array_equal(np.bincount(cells, minlength=30).reshape(5, 6), sample.whole(target).table)
        found = accuracy_difference(predictions(one), predictions(other), level=0.95, unit=unit, images_a_patient=None)
        assert isinstance(found, Estimate)
        assert found.value == pytest.approx((right[0] - right[1]) / len(units_of(one, unit)))


def _member(group: str) -> Callable[[Unit], bool]:
    return lambda one: one.belongs(group)


def _called(group: str) -> Callable[[Unit], bool]:
    return lambda one: bool(one.called(group))


class TestOneImageAUnit:
    @pytest.mark.parametrize("unit", ["image", "eye", "patient"])
    def test_costs_nothing(self, unit: str):
        """There is one answer only, and every metric shares its counts and resamples."""
        table = drawn(1, dme=False, most=1)
        sample = Sample.of(predictions(table), checklist_of(unit=unit))
        assert sample.views == {}
        assert {sample.tally_of(metric) for metric in measured() if not metric.about.of_reference} == {sample.whole()}
        asked = [MetricId(name, "referable") for name in ("sensitivity", "right_eye_sensitivity")]
        metrics = Metrics(sample, checklist_of(), 0.95, 1)
        hit, right = (metrics.estimate(one, one.default_policy) for one in asked)
        assert hit == right

    def test_the_right_eye_is_not_shown_by_image(self):
        """It would repeat the sensitivity."""
        table = predictions(drawn(1, dme=False))
        found = evaluate(table, checklist_of())
        eyes, patients = found.units["eye"], found.units["patient"]
        assert isinstance(eyes, dict)
        assert isinstance(patients, dict)
        shown = [{one.target for one in by if one.metric == "right_eye_sensitivity"} for by in (found.metrics, eyes)]
        assert shown == [set(), set(GROUPS)]
        assert set(patients) == set(eyes)


def test_many_slice_columns_do_not_overflow():
    """Forty columns of forty values are 10^64 joint codes; every slice still has its own images."""
    generator = np.random.default_rng(1)
    table = drawn(1, dme=False, patients=400, most=1)
    values = generator.integers(0, 40, (len(table), 40))
    columns = {f"c{i}": values[:, i].astype(str) for i in range(40)}
    sample = Sample.of(
        predictions(table.assign(**columns)), checklist_of(unit="patient", slices=[{"by": name} for name in columns])
    )
    for column, value in sample.each_slice():
        tally = sample.tally(column, value)
        assert tally is not None
        inside = table[columns[column] == value]
        counts = inside.groupby(["grade", inside["predicted"].fillna(5)]).size()
        expected = np.zeros((5, 6), dtype=int)
        for (grade, answer), many in counts.items():  # type: ignore[misc, union-attr]
            expected[grade, int(answer)] = many
        assert np.array_equal(tally.table, expected), (column, value)


def one_eye_each(answers: tuple[int, int], *, healthy: int = 300, affected: int = 100, **labels: Any) -> Predictions:
    """Patients with PDR in the left eye only, whose two eyes get these answers, and healthy ones that are called so."""
    n = affected + healthy
    ill = np.arange(n) < affected
    table = pd.DataFrame(
        {
            "image": [f"{i:04d}.png" for i in range(2 * n)],
            "patient": np.repeat([f"P{i}" for i in range(n)], 2),
            "eye": ["L", "R"] * n,
            "grade": np.c_[np.where(ill, 4, 0), np.zeros(n, dtype=int)].ravel(),
            "predicted": np.c_[np.where(ill, answers[0], 0), np.where(ill, answers[1], 0)].ravel(),
        }
    )
    return predictions(table.assign(**labels))


def by_patient(name: str) -> Checklist:
    """A shipped checklist, under another name, by patient."""
    return parse_checklist(load_checklist(name).content() | {"name": "by-patient", "unit": "patient"}, "x")


def counted(found: Evaluation, name: str) -> tuple[int | None, int | None]:
    metric = found.metrics[parse_id(name)]
    assert isinstance(metric, Estimate), metric
    return metric.k, metric.n


class TestTheWrongEye:
    """A model that misses every eye with PDR, all 100, and calls the healthy fellow eyes PDR."""

    def test_medical_grade_by_patient(self):
        """Read by the worst answer of any image it shows 100 of 100 for PDR and an accuracy of 400 of 400."""
        found = evaluate(one_eye_each((0, 4)), by_patient("medical-grade"))
        assert counted(found, "sensitivity:pdr") == (0, 100)
        assert counted(found, "accuracy") == (300, 400)
        assert counted(found, "undergraded:vision_threatening_below_referable") == (100, 100)
        status = {line.id: line.status for line in found.criteria}
        assert status["sensitivity:pdr"] == "FAIL"
        assert status["accuracy"] == "FAIL"
        assert status["undergraded:vision_threatening_below_referable"] == "FAIL"
        assert found.confusion_matrix[4] == (100, 0, 0, 0, 0)
        assert found.verdict == "FAIL"

    def test_screening_referable(self):
        """The patient is referred, as the checklist's source counts; the safety criterion no longer passes with 0 of
        100, and the eye that has it stands beside."""
        found = evaluate(one_eye_each((0, 4)), load_checklist("screening-referable"))
        status = {line.id: line.status for line in found.criteria}
        assert status["sensitivity:referable"] == "PASS"
        assert status["specificity:referable"] == "PASS"
        assert status["undergraded:vision_threatening_below_referable"] == "FAIL"
        assert found.verdict == "FAIL"
        assert counted(found, "sensitivity:referable") == (100, 100)
        assert counted(found, "right_eye_sensitivity:referable") == (0, 100)
        assert counted(found, "sensitivity:pdr") == (0, 100)
        notes = [line for line in found.page_one if "severe NPDR or PDR predicted" in line or "only in images" in line]
        assert notes == [
            "100 images of 100 patients with severe NPDR or PDR predicted below referable.",
            "100 of 100 patients with Referable DR are predicted so, 100 of them only in images without it: in an eye "
            "that has it, 0 of 100.",
        ]

    def test_the_right_eye_found_is_not_worse_for_a_false_alarm_in_the_other(self):
        """PDR is found where it is; that the fellow eye is called moderate changes nothing for the patient."""
        found = evaluate(one_eye_each((4, 2)), load_checklist("screening-referable"))
        for name in ("sensitivity:pdr", "sensitivity:referable", "right_eye_sensitivity:referable"):
            assert counted(found, name) == (100, 100)
        assert counted(found, "undergraded:vision_threatening_below_referable") == (0, 100)
        assert found.confusion_matrix[4] == (0, 0, 0, 0, 100)
        assert not any("only in images" in line for line in found.page_one)
        judged = [line for line in found.criteria if line.id.metric != "audit"]  # a table has none
        assert {line.status for line in judged if line.id != "no_output:severe_npdr"} == {"PASS"}

    def test_a_fellow_eye_without_output_hides_no_missed_eye(self):
        """Refusing the fellow eye refers the patient; the missed PDR is below referable all the same."""
        table = one_eye_each((0, 0)).table
        fellow = (table["patient"].str[1:].astype(int) < 100) & (table["eye"] == "R")
        silent = table.assign(predicted=table["predicted"].mask(fellow))
        found = evaluate(predictions(silent), load_checklist("screening-referable"))
        assert counted(found, "sensitivity:referable") == (100, 100)
        assert counted(found, "right_eye_sensitivity:referable") == (0, 100)
        assert counted(found, "undergraded:vision_threatening_below_referable") == (100, 100)
        assert counted(found, "no_output:pdr") == (100, 100)

    def test_a_patient_without_output_is_not_predicted(self):
        """Where no output counts as referred, page one says so."""
        table = one_eye_each((0, 0)).table
        fellow = (table["patient"].str[1:].astype(int) < 100) & (table["eye"] == "R")
        silent = predictions(table.assign(predicted=table["predicted"].mask(fellow)))
        lines = [{"id": "sensitivity:referable", "at_least": 0.5}]
        found = evaluate(silent, checklist_of(unit="patient", criteria=lines))
        assert (
            "100 of 100 patients with Referable DR are predicted so or have no output, 100 of them only in images "
            "without it: in an eye that has it, 0 of 100."
        ) in found.page_one

    def test_an_eye_with_oedema_has_it(self):
        """With a column dme the right eye of a referable patient may be one without DR."""
        oedema = np.tile([False, True], 400)
        oedema[200:] = False
        found = evaluate(one_eye_each((0, 4), dme=oedema), load_checklist("screening-referable"))
        assert counted(found, "right_eye_sensitivity:referable") == (100, 100)
        assert counted(found, "right_eye_sensitivity:any_dr") == (0, 100)
        assert counted(found, "sensitivity:pdr") == (0, 100)


class TestTuning:
    @pytest.mark.parametrize(
        "asked",
        ["sensitivity:pdr", "right_eye_sensitivity:referable", "undergraded:vision_threatening_below_referable"],
    )
    def test_by_patient_promises_what_the_gate_counts(self, asked: str):
        """Fellow eyes of patients with PDR look like PDR in one patient of five: the cut-offs are judged by the answers
        of the gate, which count these patients as errors."""
        generator = np.random.default_rng(5)
        n = 600
        ill = np.arange(n) < 400
        grade = np.c_[np.where(ill, 4, 0), np.zeros(n, dtype=int)].ravel()
        seen = grade + generator.normal(0, 0.4, 2 * n)
        swapped = np.repeat(ill & (np.arange(n) % 20 == 0), 2)
        seen[swapped] = 4 - seen[swapped]
        shares = np.exp(-2 * np.abs(seen[:, None] - np.arange(5)))
        shares /= shares.sum(axis=1, keepdims=True)
        table = one_eye_each((0, 0), healthy=200, affected=400).table.drop(columns="predicted")
        scored = predictions(table.assign(**{f"p_{g}": shares[:, g] for g in range(5)}))
        rule = {"at_most": 0.12} if asked.startswith("under") else {"at_least": 0.88}
        checklist = checklist_of(unit="patient", criteria=[{"id": asked, **rule}], planning={"power": 0.5})
        point = tune(scored, checklist)
        assert isinstance(point, OperatingPoint), point
        metric = evaluate(scored.at(point), checklist).metrics[parse_id(asked)]
        assert isinstance(metric, Estimate)
        (line,) = point.promise["criteria"]
        assert (line["k"], line["n"]) == (metric.k, metric.n)
        bound = metric.high if asked.startswith("under") else metric.low
        assert line["bound"] == pytest.approx(bound)
        referred = evaluate(scored.at(point), checklist).metrics[parse_id("sensitivity:referable")]
        assert isinstance(referred, Estimate)
        assert referred.k == 400
