"""A grader in Python: what it may answer, what it may do, and that its process has ended before anything is signed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drgate import limits
from drgate.certificate import keys
from drgate.checklist import load_checklist
from drgate.errors import CertificateError, CheckpointError, DrgateError, UsageError
from drgate.manifest import load_manifest
from drgate.predictions import load_predictions
from drgate.preprocessing import parse_preprocessing
from drgate.score import NoOutputWarning, score
from drgate.vision.graders import load_grader
from drgate.vision.images import read_image
from drgate.vision.python_grader import PythonGrader
from tests.support.tiny import write_eyes
from tests.support.verbs import exported

CODE = """
import numpy as np

class Grader:
    kind, classes, preprocessing = {kind!r}, {classes!r}, {preprocessing!r}
    def __init__(self, weights):
        self.files = weights
    def predict(self, batch):
        {predict}

def load(weights):
    {load}
    return Grader(weights)
"""
MEANS = "return np.stack([np.append(image.mean((0, 1)) / 100, [0, 1]) for image in batch])"
"""Five logits from an image alone."""
HELD = MEANS.replace("return", "a =") + "\n"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., PythonGrader]:
    """A grader of the code above with changes, over `model.bin`; none of its processes outlives the test."""
    graders = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"weights")

    def make(
        predict: str = MEANS,
        load: str = "pass",
        kind: Any = "logits",
        classes: Any = range(5),
        preprocessing: Any = None,
    ) -> PythonGrader:
        classes = list(classes) if isinstance(classes, range) else classes
        lines = textwrap.indent(textwrap.dedent(predict), " " * 8).strip()
        before = textwrap.indent(textwrap.dedent(load), " " * 4).strip()
        code = CODE.format(kind=kind, classes=classes, preprocessing=preprocessing, predict=lines, load=before)
        (tmp_path / "mine.py").write_text(code)
        graders.append(PythonGrader(Path("model.bin"), "mine.py:load"))
        return graders[-1]

    yield make
    for grader in graders:
        with contextlib.suppress(DrgateError):
            grader.end()


def photographs(n: int = 4) -> list[np.ndarray]:
    generator = np.random.default_rng(5)
    return [generator.integers(0, 255, (20 + i, 30, 3), dtype=np.uint8) for i in range(n)]


def gone(pid: int) -> bool:
    """Whether no such process is left, after at most five seconds."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":  # ended; whoever started it has not asked yet
            return True
        time.sleep(0.05)
    return False


class TestAnswers:
    def test_photographs_arrive_as_decoded(self, made):
        """Without a preprocessing, predict gets each photograph whole: its own size, RGB, uint8."""
        batch = photographs()
        expected = [[*image.mean((0, 1)), image.shape[0], image[3, 4, 2]] for image in batch]
        grader = made(
            "found = [[*i.mean((0, 1)), i.shape[0], i[3, 4, 2]] for i in batch if i.dtype == np.uint8]\n"
            "for i in batch: i[:] = 0\nreturn found"
        )
        assert grader.preprocessing is None
        assert grader.outputs(batch) == pytest.approx(np.array(expected), rel=1e-6)

    def test_prepared_images_arrive_as_floats(self, made):
        """With a preprocessing of drgate's, predict gets one array (n, 3, size, size), to the last bit."""
        grader = made("return batch[:, 0, 3, :5]", preprocessing="imagenet-stretch@16")
        batch = np.random.default_rng(1).normal(size=(5, 3, 16, 16)).astype(np.float32)
        assert grader.preprocessing == parse_preprocessing("imagenet-stretch@16")
        assert np.array_equal(grader.outputs(batch), batch[:, 0, 3, :5])

    @pytest.mark.parametrize(
        ("kind", "classes", "answer"),
        [
            ("logits", ["pdr", "severe", "Moderate", "Mild NPDR", "No DR"], "[[1, 2, 3, 4, 5]] * len(batch)"),
            ("probabilities", [0, 1, 2, 3, 4], "np.full((len(batch), 5), .2)"),
            ("regression", None, "np.full((len(batch), 1), 2)"),
            ("cumulative_logits", None, "np.zeros((len(batch), 4), np.float16)"),
            ("referable_probability", None, "[[.25]] * len(batch)"),
            ("logits", ["refer", "no refer"], "[[1, 0]] * len(batch)"),
        ],
    )
    def test_each_kind(self, made, kind, classes, answer):
        """Numbers of any real type, as an array or as lists."""
        grader = made(f"return {answer}", kind=kind, classes=classes)
        assert grader.outputs(photographs(2)).shape == (2, grader.answer.width)
        assert grader.answer.own_names == tuple(map(str, classes or ()))

    @pytest.mark.parametrize(
        ("predict", "said"),
        [
            ("return np.zeros((len(batch), 4))", r"answers \[4, 4\] numbers for 4 images; expected \(4, 5\)"),
            ("return np.zeros((len(batch) + 1, 5))", r"answers \[5, 5\] numbers"),
            ("return np.zeros((1, 5))", r"answers \[1, 5\] numbers"),
            ("return np.zeros(len(batch))", r"answers \[4\] numbers"),
            ("return np.zeros((4000, 5000))", r"answers \[4000, 5000\] numbers"),
            ("return np.zeros((len(batch), 5), complex)", "answers with complex128; expected numbers"),
            ("return [['0.1'] * 5] * len(batch)", "answers with text; expected numbers"),
            ("return [[1, 2, 3], [4]]", "lists of different lengths"),
            ("return None", "answers with object; expected numbers"),
            ("return np.ones((len(batch), 5), bool)", "answers with bool; expected numbers"),
            (
                "raise ValueError('no weights\\nfor this')",
                "failed while grading 4 images. In its own words: ValueErr.*no weights for this[.]",
            ),
            ("import sys; sys.exit(3)", "In its own words: SystemExit: 3"),
            ("raise KeyboardInterrupt", "In its own words: KeyboardInterrupt"),
            ("return batch.shape", "In its own words: AttributeError"),
        ],
    )
    def test_what_is_no_answer(self, made, predict, said):
        """One sentence that says what came, and what was expected."""
        with pytest.raises(CheckpointError, match=said):
            made(predict).outputs(photographs())

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"kind": "softmax"}, "of the kind 'softmax'; expected one of logits, "),
            ({"kind": None}, "of the kind None"),
            ({"classes": range(4)}, "expected the five grades.*Give the grade of each output in order"),
            ({"classes": [0, 1, 2, 3, "normal"]}, "class no_dr twice"),
            ({"classes": [0, 1, 2, 3, "cataract"]}, "'cataract', which are not those of a grade"),
            ({"classes": None}, "None as classes"),
            ({"kind": "regression"}, "regression has no classes"),
            ({"preprocessing": "fundus"}, "no preprocessing 'fundus'"),
            ({"preprocessing": {"size": 3}}, "is not a preprocessing"),
            ({"preprocessing": 448}, "is not a preprocessing"),
            ({"load": "return None"}, "gave None without files; expected files, kind"),
            ({"load": "return 1 / 0"}, "failed while loading. In its own words: ZeroDivisionError"),
            ({"load": "Grader.files = property(lambda s: [], lambda s, v: None)"}, "names no files"),
            ({"load": "weights = str(weights[0])"}, "an object of type str as files; expected a list"),
            ({"load": "weights = [__file__]"}, "mine.py as its first file; expected one of the files"),
            ({"load": "weights = [*weights, '/dev/zero']"}, "/dev/zero is not a file"),
            ({"load": "weights = [*weights, 'missing.bin']"}, "missing.bin is not a file"),
            ({"load": "Grader.kind = np.zeros(3)"}, "an object of type ndarray as kind"),
        ],
    )
    def test_what_is_no_grader(self, made, changes, said):
        """It is refused when it is loaded, before any image is read."""
        with pytest.raises(DrgateError, match=said):
            made(**changes)

    @pytest.mark.parametrize(
        ("predict", "said"),
        [
            (HELD + "return a - a.mean(0)", "another answer in another batch"),
            (
                HELD + "return a + np.arange(len(a))[:, None]",
                "another answer in another batch",
            ),
            (HELD + "return a / len(a)", "another answer"),
            (HELD + "return a + np.random.rand(*a.shape)", "another answer"),
            (HELD + "return a + np.random.rand(*a.shape) / 500", "another answer in the same batch"),
            (HELD + "if len(a) == 4: a[0, 0] = np.nan\nreturn a", "another answer"),
        ],
        ids=["mean of the batch", "position", "size of the batch", "chance", "a little chance", "no answer once"],
    )
    def test_an_answer_depends_on_its_image_alone(self, made, predict, said):
        """A network in training mode answers by the other images of its batch, or by chance."""
        with pytest.raises(CheckpointError, match=said):
            made(predict).outputs(photographs())

    def test_an_answer_does_not_change_with_time(self, made):
        """One that goes on learning from what it is given."""
        grader = made("self.seen = getattr(self, 'seen', 0) + len(batch)\n" + MEANS + " * (1 + (self.seen > 20))")
        for _ in range(5):
            grader.outputs(photographs())
        with pytest.raises(CheckpointError, match="another answer after all others"):
            grader.finish()

    def test_no_number_is_no_output(self, made, tmp_path):
        """A row that is not finite, here for one image, counts as an image without output."""
        write_eyes(tmp_path / "eyes", test=1)
        manifest = load_manifest(tmp_path / "eyes").select("test")
        dark = str(manifest.table["image"].iloc[2])
        mean = float(np.asarray(read_image(manifest.path(dark))).mean())
        predict = f"return [[np.nan if abs(i.mean() - {mean}) < 1e-9 else 3, 0, 0, 0, 0] for i in batch]"
        with pytest.warns(NoOutputWarning):
            table = score(made(predict), manifest, workers=0).table
        assert table["image"][table["predicted"].isna()].tolist() == [dark]

    def test_a_number_too_large_for_32_bits_is_no_output(self, made):
        assert not np.isfinite(made("return [[1e300] * 5] * len(batch)").outputs(photographs())).any()


class TestStated:
    def test_what_is_left_out(self, made, tmp_path):
        """The options of other models, and a preprocessing that the grader contradicts."""
        made()
        for more in ({"base": "embedded"}, {"lora_alpha": 3.0}):
            with pytest.raises(UsageError, match="leave --base and --lora-alpha out"):
                load_grader(Path("model.bin"), python="mine.py:load", **more)
        with pytest.raises(UsageError, match="prepares photographs itself"):
            load_grader(Path("model.bin"), None, parse_preprocessing("siglip"), python="mine.py:load")
        made(preprocessing="siglip@32")
        with pytest.raises(UsageError, match=r"contradicts the grader mine\.py:load"):
            load_grader(Path("model.bin"), None, parse_preprocessing("siglip"), python="mine.py:load")
        same = load_grader(Path("model.bin"), None, parse_preprocessing("siglip@32"), python="mine.py:load")
        assert same.preprocessing.label == "siglip@32"

    @pytest.mark.parametrize(
        ("code", "said"),
        [
            ("mine.py", "is not FILE.py:load"),
            ("mine.py:", "is not FILE.py:load"),
            ("other.py:load", "other.py, which does not exist"),
            ("no_such_package.x:load", "there is no package no_such_package"),
            ("os.path:load", "os is a module, not a package"),
            ("json:load", "Python's own module json"),
            ("numpy.nowhere:load", "numpy"),
            ("mine.py:save", "has no function save"),
            ("../x; rm:load", "is not FILE.py:load"),
        ],
    )
    def test_code_that_is_not_there(self, made, code, said):
        made()
        with pytest.raises(DrgateError, match=said):
            PythonGrader(Path("model.bin"), code)

    def test_weights_that_are_not_there(self, made, tmp_path):
        made()
        (tmp_path / "empty").mkdir()
        for name, said in (("absent.bin", "does not exist"), ("empty", "holds no files")):
            with pytest.raises(CheckpointError, match=said):
                PythonGrader(Path(name), "mine.py:load")


class TestHostile:
    def test_it_sees_no_secrets(self, made, monkeypatch):
        """Keys, tokens, proxies and the home folder: what is not on the list of harmless variables is not there."""
        secrets = ("DRGATE_KEY", "DRGATE_KEY_PASSPHRASE", "DRGATE_PATIENT_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY")
        for name in (*secrets, "HTTPS_PROXY", "https_proxy", "SSH_AUTH_SOCK", "GITHUB_TOKEN", "LD_PRELOAD", "ANYTHING"):
            monkeypatch.setenv(name, "" if name == "LD_PRELOAD" else "secret-value")
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        home = os.environ["HOME"]
        seen = "json.dumps([dict(os.environ), os.getcwd(), os.listdir()])"
        grader = made(load=f"import json, os\nweights[0].with_name('seen').write_text({seen})")
        environment, folder, held = json.loads(Path("seen").read_text())
        assert "secret-value" not in environment.values()
        assert environment["OMP_NUM_THREADS"] == "1"
        assert environment["HOME"] == folder != home
        assert held == []
        grader.end()
        assert not Path(folder).exists()

    @pytest.mark.parametrize("how", ["time.sleep(60)", "while True: pass"])
    def test_it_takes_for_ever(self, made, monkeypatch, how):
        """In load or in predict, asleep or at work."""
        monkeypatch.setattr(limits, "GRADER_LOAD_SECONDS", 1.0)
        with pytest.raises(CheckpointError, match=r"more than 1 seconds for loading; it was ended\. .* last: 'on'"):
            made(load=f"import time; print('on', flush=True)\n{how}")
        monkeypatch.setattr(limits, "GRADER_LOAD_SECONDS", 60.0)
        monkeypatch.setattr(limits, "GRADER_SECONDS", 0.5)
        monkeypatch.setattr(limits, "GRADER_IMAGE_SECONDS", 0.1)
        with pytest.raises(CheckpointError, match="took more than 1 seconds for grading 4 images"):
            made(f"import time\n{how}").outputs(photographs())

    @pytest.mark.parametrize(
        "how",
        [
            "np.ones(1 << 34)",
            "a = []\nwhile True: a.append(bytes(1 << 20))",
            "import mmap; mmap.mmap(-1, 1 << 40, flags=mmap.MAP_PRIVATE)",
        ],
        ids=["at once", "in parts", "past the allocator"],
    )
    def test_it_fills_memory(self, made, monkeypatch, how):
        monkeypatch.setattr(limits, "GRADER_MEMORY", 1 << 30)
        with pytest.raises(CheckpointError, match=r"more than 1024 MB of memory|Cannot allocate memory"):
            made(how).outputs(photographs())

    def test_it_prints(self, made):
        """As much as it likes, also past Python, without a line break, and on both streams."""
        grader = made(
            "import os, sys\nprint('x' * 1_000_000)\nsys.stderr.write('y' * 1_000_000)\nos.write(1, b'z' * 100_000)\n"
            "sys.stdout.flush()\n" + MEANS
        )
        assert grader.outputs(photographs()).shape == (4, 5)
        grader.finish()

    @pytest.mark.parametrize(
        ("how", "said"),
        [
            ("os._exit(3)", r"ended itself \(exit code 3\) while grading 4 images"),
            ("os._exit(0)", r"ended itself \(exit code 0\)"),
            ("os.abort()", "ended by signal 6"),
            ("os.kill(os.getpid(), 9)", "ended by signal 9"),
            ("import ctypes; ctypes.string_at(0)", "ended by signal 11"),
            ("os.kill(os.getppid(), 9); time.sleep(60)", "could not be ended; nothing is signed"),
            ("os.closerange(3, 100); return [[0] * 5] * len(batch)", "ended itself"),
            ("[os.write(fd, b'[' * 5000) for fd in range(3, 200) if is_pipe(fd)]", "took more than|something else"),
            ("[os.write(fd, b'\\x02' + bytes(15) + b'[]') for fd in range(3, 200) if is_pipe(fd)]", "something else"),
            ("os.fork(); return [[0] * 5] * len(batch)", None),
            ("os.closerange(1, 3); return [[0] * 5] * len(batch)", None),
        ],
    )
    def test_it_ends_or_meddles(self, made, monkeypatch, how, said):
        """Its exit code or signal is named; what it writes itself is never taken for an answer of another shape."""
        monkeypatch.setattr(limits, "GRADER_SECONDS", 1.0)
        monkeypatch.setattr(limits, "GRADER_IMAGE_SECONDS", 0.0)
        pipes = (
            "import os, stat, time\n"
            "def is_pipe(fd):\n"
            "    try:\n        os.write(fd, b'') \n        return stat.S_ISFIFO(os.fstat(fd).st_mode)\n"
            "    except OSError: return False\n"
        )
        grader = made(pipes + how + "\nreturn 1")
        if said is None:
            assert grader.outputs(photographs()).shape == (4, 5)
        else:
            with pytest.raises(CheckpointError, match=said):
                grader.outputs(photographs())

    def test_what_it_started_is_ended_with_it(self, made):
        """Children, threads, and daemons that left its group and its session."""
        grader = made(
            load="""
            import os, subprocess, sys, threading, time
            threading.Thread(target=time.sleep, args=(600,)).start()
            sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
            pids = [os.getpid(), subprocess.Popen(sleep).pid, subprocess.Popen(sleep, start_new_session=True).pid]
            read, write = os.pipe()
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.write(write, str(os.getpid()).encode())
                    time.sleep(600)
                os._exit(0)
            pids.append(int(os.read(read, 20)))
            weights[0].with_name("pids").write_text(" ".join(map(str, pids)))
            """
        )
        pids = [int(pid) for pid in Path("pids").read_text().split()]
        assert len(pids) == 4
        grader.outputs(photographs())
        grader.end()
        assert all(map(gone, pids))

    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
    def test_it_ends_when_drgate_is_ended(self, made, how):
        """Killed, or by Ctrl-C, while the grader works and does not listen."""
        made(load="import os\nweights[0].with_name('pid').write_text(str(os.getpid()))", predict="while True: pass")
        run = "from pathlib import Path; import numpy as np; from drgate.vision.python_grader import PythonGrader\n"
        run += "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job ignores Ctrl-C
        run += "PythonGrader(Path('model.bin'), 'mine.py:load').outputs([np.zeros((9, 9, 3), np.uint8)])"
        Path("pid").unlink()
        drgate = subprocess.Popen([sys.executable, "-c", run], stderr=subprocess.DEVNULL)
        while not (Path("pid").exists() and (pid := Path("pid").read_text())):
            time.sleep(0.05)
        time.sleep(0.3)
        drgate.send_signal(how)
        drgate.wait(30)
        assert gone(int(pid))

    def test_a_grader_that_nobody_keeps_is_ended(self, made):
        """A refusal between loading and scoring leaves no process."""
        made(load="import os\nweights[0].with_name('pid').write_text(str(os.getpid()))")
        grader = PythonGrader(Path("model.bin"), "mine.py:load")
        pid = int(Path("pid").read_text())
        del grader
        assert gone(pid)


class TestFiles:
    def test_each_has_its_role(self, made, tmp_path):
        """The weights that it names first, all others that it was given or names, and its code; each by its bytes."""
        (tmp_path / "w").mkdir()
        for name in ("b.bin", "a.bin", "names.json", ".hidden"):
            (tmp_path / "w" / name).write_text(name)
        (tmp_path / "extra.npy").write_text("extra")
        made()
        extra = str(tmp_path / "extra.npy")
        names = ["a.bin", "b.bin", "names.json"]
        lines = f"    assert [w.name for w in weights] == {names}\n    weights = [weights[1], {extra!r}]\n"
        code = (tmp_path / "mine.py").read_text().replace("    pass\n", lines)
        (tmp_path / "mine.py").write_text(code)
        grader = PythonGrader(tmp_path / "w", "mine.py:load")
        roles = {file.name: file.role for file in grader.files}
        assert list(roles) == ["b.bin", "extra.npy", "a.bin", "names.json", "mine.py"]
        assert list(roles.values()) == ["model", "data", "data", "config", "code"]
        assert grader.files[-1].sha256 == hashlib.sha256(code.encode()).hexdigest()
        grader.end()

    def test_links_are_followed(self, made, tmp_path):
        """As in the cache of a hub; a grader may name the file itself."""
        (tmp_path / "blob").write_bytes(b"blob")
        made(load="weights = [w.resolve() for w in weights]")
        (tmp_path / "linked.bin").symlink_to(tmp_path / "blob")
        grader = PythonGrader(Path("linked.bin"), "mine.py:load")
        assert grader.files[0].name == "linked.bin"
        grader.end()

    def test_everything_that_decides_is_in_the_digest(self, made):
        """Code, weights, kind, classes and preprocessing each make another model; the same twice make the same."""
        changes = (
            {},
            {"predict": MEANS + " + 0"},
            {"classes": [4, 3, 2, 1, 0]},
            {"kind": "probabilities"},
            {"preprocessing": "siglip@32"},
            {"preprocessing": "siglip@64"},
        )
        digests = [made(**one).tensor_digest for one in changes]
        assert made().tensor_digest == digests[0]
        Path("model.bin").write_bytes(b"other")
        digests.append(made().tensor_digest)
        assert len({*digests}) == len(digests)

    @pytest.mark.parametrize("name", ["model.bin", "mine.py"])
    @pytest.mark.parametrize("how", ["write_bytes", "replace", "there and back"])
    def test_a_file_that_is_exchanged_meanwhile(self, made, name, how):
        """By the grader itself or by anybody: refused at the end, also where the old bytes are back."""
        grader = made()
        grader.outputs(photographs())
        before = Path(name).read_bytes()
        if how == "replace":
            Path("new").write_bytes(before)
            Path("new").replace(name)
        else:
            Path(name).write_bytes(b"another")
            if how == "there and back":
                Path(name).write_bytes(before)
        with pytest.raises(CheckpointError, match=f"{name} was changed or replaced while the grader ran"):
            grader.finish()

    def test_code_runs_from_the_bytes_that_were_hashed(self, made, monkeypatch):
        """A file that is exchanged between reading and running is not the one that runs."""
        from drgate.vision import python_grader

        made()
        whole = python_grader._modules

        def exchanged(*arguments):
            found = whole(*arguments)
            Path("mine.py").write_text("raise SystemExit('the other one ran')")
            return found

        monkeypatch.setattr(python_grader, "_modules", exchanged)
        grader = PythonGrader(Path("model.bin"), "mine.py:load")
        assert grader.outputs(photographs()).shape == (4, 5)
        grader.end()


class TestPackage:
    @pytest.fixture
    def package(self, made, tmp_path) -> Path:
        """`dr_model`, with a module in a sub-package, one in a folder without __init__.py, and data."""
        made()
        root = tmp_path / "dr_model"
        for folder in ("net", "plain"):
            (root / folder).mkdir(parents=True)
        own = (tmp_path / "mine.py").read_text()
        (tmp_path / "mine.py").unlink()
        (root / "__init__.py").write_text("")
        (root / "net" / "__init__.py").write_text("from dr_model.plain.more import NUMBER\n")
        (root / "plain" / "more.py").write_text("NUMBER = 3\n")
        (root / "bias.txt").write_text("7")
        (root / "net" / "grader.py").write_text(
            "from . import NUMBER\nimport importlib.resources\n"
            "BIAS = int(importlib.resources.files('dr_model').joinpath('bias.txt').read_text())\n"
            + own.replace("[0, 1]", "[NUMBER, BIAS]")
        )
        return root

    def test_all_its_modules_are_certified(self, package):
        """Under their dotted names, so that two __init__.py are two files."""
        grader = PythonGrader(Path("model.bin"), "dr_model.net.grader:load")
        names = [file.name for file in grader.files if file.role == "code"]
        assert sorted(names) == [
            "dr_model.__init__.py",
            "dr_model.net.__init__.py",
            "dr_model.net.grader.py",
            "dr_model.plain.more.py",
        ]
        assert (grader.outputs(photographs())[:, 3:] == [3, 7]).all()
        grader.finish()
        assert "dr_model" not in grader.notes[0].replace("(dr_model.net.grader:load)", "")
        (package / "plain" / "more.py").write_text("NUMBER = 4\n")
        assert PythonGrader(Path("model.bin"), "dr_model.net.grader:load").tensor_digest != grader.tensor_digest

    def test_a_module_that_was_not_hashed_is_not_imported(self, package):
        """One that it writes into its package while it runs."""
        with (package / "net" / "grader.py").open("a") as code:
            code.write(
                "\nfrom pathlib import Path\nPath(__file__).with_name('late.py').write_text('X = 1')\n"
                "import dr_model.net.late\n"
            )
        with pytest.raises(CheckpointError, match=r"ModuleNotFoundError: No module named 'dr_model.net.late'"):
            PythonGrader(Path("model.bin"), "dr_model.net.grader:load")

    def test_it_is_never_imported_here(self, package):
        """Not even to find out where its modules are."""
        (package / "__init__.py").write_text("import os; os.environ['IMPORTED'] = 'yes'")
        PythonGrader(Path("model.bin"), "dr_model.net.grader:load").end()
        assert "IMPORTED" not in os.environ
        assert not any(name.startswith("dr_model") for name in sys.modules)

    def test_a_package_that_is_too_large(self, package, monkeypatch):
        monkeypatch.setattr(limits, "GRADER_FILES", 3)
        with pytest.raises(CheckpointError, match="put the grader into a file or a package of its own"):
            PythonGrader(Path("model.bin"), "dr_model.net.grader:load")

    def test_what_else_it_imported_is_named(self, made):
        """By distribution and version; it is not certified, and page one says so."""
        grader = made(load="import PIL.Image, cryptography")
        grader.outputs(photographs())
        grader.finish()
        assert {"pillow", "cryptography", "numpy"} <= grader.software.keys()
        assert f"numpy {np.__version__}" in grader.notes[0]
        assert "Other code is not certified" in grader.notes[0]


SIGNED = ("--spec", "smoke", "--key", "key.pem", "--out", "report")


class TestCommands:
    @pytest.fixture
    def place(self, made, tmp_path, monkeypatch) -> Path:
        """Images with grades, a grader that notes its process, and a key with a passphrase."""
        write_eyes(tmp_path / "eyes", test=2)
        made(load="import os\nweights[0].with_name('pid').write_text(str(os.getpid()))")
        keys.generate_key(tmp_path / "key", b"open sesame")
        monkeypatch.setenv("DRGATE_KEY_PASSPHRASE", "open sesame")
        return tmp_path

    WORDS = ("model.bin", "--data", "eyes", "--grader", "mine.py:load")

    @pytest.mark.parametrize("verb", ["evaluate", "score"])
    def test_the_key_is_opened_once_it_has_ended(self, place, drgate, monkeypatch, verb):
        """Not before: no process of the grader lives when a key is in memory."""
        opened = []

        def parse(*arguments, real=keys.parse_private_key):
            opened.append(gone(int(Path("pid").read_text())))
            return real(*arguments)

        Path("pid").unlink()
        monkeypatch.setattr(keys, "parse_private_key", parse)
        out = "report" if verb == "evaluate" else "table.parquet"
        more = ("--spec", "smoke") if verb == "evaluate" else ()
        ended = drgate(verb, *self.WORDS, *more, "--key", "key.pem", "--out", out)
        assert opened == [True], ended
        signed = Path("report/certificate.json" if verb == "evaluate" else "table.scored.json")
        assert signed.is_file(), ended

    def test_a_key_that_cannot_be_opened(self, place, refused, drgate, monkeypatch):
        """A file that is not there is refused at once; a wrong passphrase before the look."""
        monkeypatch.chdir(place)
        Path("pid").unlink()
        ended = drgate("evaluate", *self.WORDS, "--spec", "smoke", "--key", "absent.pem")
        assert ended.code == 2
        assert not Path("pid").exists()
        monkeypatch.setenv("DRGATE_KEY_PASSPHRASE", "wrong")
        ended = drgate("evaluate", *self.WORDS, *SIGNED)
        assert ended.code == 2
        assert "does not open key.pem" in ended.err
        assert not Path("report").exists()
        assert not Path("reports").exists()

    def test_the_certificate_names_code_and_weights(self, place, drgate):
        """Both are subjects; page one says what is not covered; the scored table is the same as the evaluation's."""
        ended = drgate("evaluate", *self.WORDS, *SIGNED, "--format", "json")
        assert ended.out, ended.err
        evaluation = json.loads(ended.out)
        roles = {one["name"]: one["role"] for one in evaluation["model"]["files"]}
        assert roles == {"model.bin": "model", "mine.py": "code"}
        assert evaluation["model"]["kind"] == "python grader"
        assert "preprocessing" not in evaluation["model"]
        page = " ".join(evaluation["page_one"])
        assert "A grader in Python gave the answers (mine.py:load)." in page
        assert "Other code is not certified: numpy" in page
        assert "prepares the photographs by its own code" in page
        assert drgate("score", *self.WORDS, "--out", "table.parquet", "--key", "key.pem").code == 0
        known = ("--spec", "smoke", "--scorer-key", "key.pub", "--out", "second", "--format", "json")
        again = json.loads(drgate("evaluate", "table.parquet", *known).out)
        assert again["confusion_matrix"] == evaluation["confusion_matrix"]
        table = load_predictions(Path("table.parquet")).table
        images = [np.asarray(read_image(place / "eyes" / name)) for name in table["image"]]
        logits = np.array([[*image.mean((0, 1)) / 100, 0, 1] for image in images])
        assert table["predicted"].tolist() == logits.argmax(1).tolist()

    def test_nobody_else_runs_it(self, place, drgate):
        """verify and export read its certificate without its code; to score again, or to export, is refused."""
        drgate("evaluate", *self.WORDS, *SIGNED)
        Path("pid").unlink()
        trusted = ("report/certificate.json", "--key", "key.pub", "--model", "model.bin")
        assert "All certified files are there" in drgate("verify", *trusted).out
        ended = drgate("verify", *trusted, "--deep", "--data", "eyes")
        assert "verify runs nobody's code" in ended.err
        with pytest.raises(CertificateError, match="export the model to ONNX yourself"):
            exported(
                Path("model.bin"),
                certificate=Path("report/certificate.json"),
                checklist=load_checklist("smoke"),
                out=Path("bundle"),
                data=Path("eyes"),
            )
        assert not Path("pid").exists()
        Path("mine.py").rename("other.py")
        assert drgate("verify", *trusted).code == 3

    def test_refused_before_it_runs(self, place, drgate):
        """Whoever cannot be judged anyway runs no code."""
        Path("pid").unlink()
        ended = drgate("evaluate", "model.bin", "--grader", "mine.py:load")
        assert "give them with --data" in ended.err
        assert not Path("pid").exists()
