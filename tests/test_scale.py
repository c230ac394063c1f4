"""What public data sets and models call the five grades, and what is not taken for one."""

from __future__ import annotations

import pytest

from drgate.errors import CheckpointError
from drgate.models import classes_of
from drgate.scale import GRADES, REFERABLE_CLASSES, parse_class, parse_grade

FIVE = {
    "numbers": "0 1 2 3 4",
    "numbers as floats": "0.0 1.0 2.0 3.0 4.0",
    "APTOS folders": "No_DR Mild Moderate Severe Proliferate_DR",
    "our own": " ".join(GRADES),
    "EyePACS folders": "0_nodr 1_mild 2_moderate 3_severe 4_proliferativedr",
    "RETFound's APTOS": "anodr bmilddr cmoderatedr dseveredr eproliferativedr",
    "RETFound's IDRiD": "anoDR bmildDR cmoderateDR dsevereDR eproDR",
    "with DR": "Normal|Mild DR|Moderate DR|Severe DR|Proliferative DR",
    "with NPDR": "No DR|Mild NPDR|Moderate NPDR|Severe NPDR|PDR",
    "in full": "No diabetic retinopathy|Mild diabetic retinopathy|Moderate diabetic retinopathy|"
    "Severe diabetic retinopathy|Proliferative diabetic retinopathy",
    "non-proliferative": "no apparent retinopathy|Mild Non-Proliferative DR|"
    "Moderate nonproliferative diabetic retinopathy|severe non proliferative|Proliferative",
    "MedMNIST": "no apparent retinopathy|mild NPDR, non-proliferative diabetic retinopathy|"
    "moderate NPDR, non-proliferative diabetic retinopathy|severe NPDR, non-proliferative diabetic retinopathy|"
    "PDR, proliferative diabetic retinopathy",
    "number and name": "0 - No DR|1 - Mild|2 - Moderate|3 - Severe|4 - Proliferative DR",
    "class and name": "Class 0: No DR|Class 1: Mild DR|Class 2: Moderate DR|Class 3: Severe DR|Class 4: Proliferate DR",
    "name in brackets": "Grade 0 (No DR)|Grade 1 (Mild)|Grade 2 (Moderate)|Grade 3 (Severe)|Grade 4 (Proliferative)",
    "number in brackets": "No DR (0)|Mild NPDR (1)|Moderate NPDR (2)|Severe NPDR (3)|PDR (4)",
    "DR and number": "DR0 DR_1 DR-2 dr3 DR4",
    "grade and number": "grade0 grade_1 Grade-2 GRADE3 DR_grade_4",
    "level, stage, class": "level_0|Level 1|stage 2|class_3|ICDR 4",
    "two names": "No DR (normal)|Mild DR (mild NPDR)|NPDR moderate|Severe / severe NPDR|PDR (proliferative)",
}

NO_GRADE = (
    *("", "5", "-1", "2.5", "2.2", "02", "1.1", "0.3.DR1", "LABEL_2", "Class A", "class_5", "C2", "x2", "two"),
    *("R0", "R1", "R2", "R3", "R3A", "M1", "background", "Background DR", "pre-proliferative DR"),
    *("DR", "NPDR", "non-proliferative", "no proliferative DR", "positive", "diabetic retinopathy", "abnormal"),
    *("Moderate to Severe NPDR", "mild/moderate", "No DR / mild", "very severe", "mild or worse", "not normal"),
    *("2 - Severe", "grade 3 (moderate)", "PDR (3)", "bmoderatedr", "anormality", "1_nodr", "3: 4", "2 - 2"),
    *("DME", "glaucoma", "Moderate DME", "referable", "2\x00", "m" * 100_000, "Mild " * 10_000),
)


@pytest.mark.parametrize("names", FIVE.values(), ids=FIVE)
def test_names_of_the_five_grades(names: str):
    """Folders, columns and the classes of a model are read by the names that people use, in any order."""
    each = names.split("|" if "|" in names else None)
    assert [parse_grade(name) for name in each] == [0, 1, 2, 3, 4]
    assert classes_of(each[::-1], "config.json") == GRADES[::-1]


@pytest.mark.parametrize("name", NO_GRADE)
def test_other_names_are_no_grade(name: str):
    """Another scale, several grades, no grade, or a number and a name that disagree: nothing is guessed."""
    assert parse_grade(name) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("referable", 1),
        ("Referable DR", 1),
        ("1 - referable", 1),
        ("RDR", 1),
        ("non-referable", 0),
        ("Not referable", 0),
        ("0_non_referable_DR", 0),
        ("nonreferable diabetic retinopathy", 0),
        ("1 - non-referable", None),
        ("0 referable", None),
        ("DR", None),
        ("positive", None),
        ("refer to", None),
    ],
)
def test_names_of_the_referable_classes(name: str, expected: int | None):
    """Whether to refer; any DR or a positive test is something else."""
    assert parse_class(name) == (None if expected is None else REFERABLE_CLASSES[expected])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3", "LABEL_4"], "'LABEL_0', 'LABEL_1'"),
        (["No DR", "Mild", "2 - Severe", "Severe", "PDR"], "'2 - Severe'"),
        (["No DR", "normal", "Moderate", "Severe", "PDR"], "the class no_dr twice"),
        (["No DR", "Mild", "Moderate", "Severe"], "expected the five grades"),
        (["referable", "No DR"], "expected the five grades"),
    ],
)
def test_other_classes_are_refused_with_what_to_write(names: list[str], said: str):
    """Unknown names, contradictions, a grade twice and missing grades: one sentence, with the mapping to write."""
    with pytest.raises(CheckpointError, match=said) as refused:
        classes_of(names, "config.json")
    assert "classes: [no_dr, mild_npdr, moderate_npdr, severe_npdr, pdr]" in str(refused.value)
