"""A repository made ready for the gate: policy, checklist, keys, folders, and the workflow that runs the gate.

adopted = adopt(Path(), keys=[("clinical", Path("keys/clinical.pub"))], spec="medical-grade", test_set=known)
adopted.written         # the files that were written and staged, by their path from the root
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final, Literal

from drgate import limits
from drgate.certificate.keys import MAX_KEY_BYTES, PublicKey, parse_public_key
from drgate.certificate.trust import refuse_shared_keys
from drgate.checklist import parse_yaml, read_checklist, shipped
from drgate.errors import ChecklistError, UsageError, visible
from drgate.files import read_limited
from drgate.gate.placing import placed, refuse_links, same_as
from drgate.gate.policy import FILE, PYPROJECT, find_policy, folder_of, gating_checklist, parse_policy
from drgate.gate.repository import Repository, open_repository
from drgate.mapping import PLAIN, ColumnMap

KEPT_OUT: Final = ("*.pem", "*.key", "names.csv", ".looks.lock", "/reports/")
"""Lines of .gitignore: private keys, patient keys, what leads from published names back, and evaluations' folders."""
EVIDENCE: Final = ("certificates", "keys", "looks", "waivers")
_ROLE: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_SOURCE: Final = re.compile(r"([A-Za-z0-9][\w.-]*(?:/[\w.-]+)+)@([0-9a-f]{40}|[0-9a-f]{64})")

Forge = Literal["github", "gitlab"]


@dataclass(frozen=True, slots=True)
class KnownSet:
    """A test set as a policy names it. name: any; the policy's is made of it. digest: of the manifest, with images."""

    name: str
    digest: str

    @property
    def plain(self) -> str:
        """The name in letters that a policy allows."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip("-._")[:100] or "test-set"


@dataclass(frozen=True, slots=True)
class Adopted:
    """What `adopt` did. written: paths that are new or changed. looks: of the test set; None where none is stated."""

    root: Path
    written: tuple[str, ...]
    spec: str
    looks: str | None
    keys: tuple[tuple[str, str], ...]
    workflow: str | None
    notes: tuple[str, ...]


def adopt(
    folder: Path,
    *,
    keys: Sequence[tuple[str, Path]],
    spec: str,
    models: Sequence[str],
    test_set: KnownSet | None = None,
    forge: Forge | None = None,
    source: str | None = None,
    force: bool = False,
) -> Adopted:
    """Write and stage what the repository around `folder` needs for the gate; all of it, or nothing.

    keys: role and public key file. spec: a checklist that ships, or a file. models: patterns. source:
    REPOSITORY@COMMIT of drgate on the forge. force: replace files that differ.

    Raises DrgateError where something is missing or invalid, and for files that are there already and differ.
    """
    if not keys:
        raise UsageError(
            "A policy needs a key that it trusts. Make one with drgate keygen --out keys/clinical, and name it: "
            "--trusted-key clinical=keys/clinical.pub."
        )
    with open_repository(folder) as repository:
        tree = repository.staged()
        if (existing := find_policy(tree, None)) == PYPROJECT:
            raise UsageError(f"{PYPROJECT} holds a policy already; change that one, or remove its [tool.drgate.gate].")
        files: dict[str, bytes] = {}
        named = _keys(repository, keys, files)
        checklist = _checklist(repository, spec, files)
        files[FILE] = _policy(models, checklist, named, test_set)
        parse_policy(_policy(models, checklist, named, test_set or KnownSet("none", f"sha256:{'0' * 64}")), FILE)
        folders = [name for name in (folder_of(pattern) for pattern in models) if name]
        for name in dict.fromkeys([*folders, "certificates", "looks"]):
            if not any(path.startswith(f"{name}/") for path in (*tree.entries, *files)):
                files[f"{name}/.gitkeep"] = b""
        lines = [f"{name}/** -text" for name in dict.fromkeys([*EVIDENCE, *folders])]
        for name, more in ((".gitattributes", lines), (".gitignore", KEPT_OUT)):
            files[name] = _with_lines(repository.root / name, more)
        notes = [] if forge is None else _workflow(repository, forge, source, files)
        for path in files:
            refuse_links(repository, path)
        changed = [path for path, data in files.items() if not same_as(repository.root / path, data)]
        appended = (".gitattributes", ".gitignore")
        differ = [path for path in changed if (repository.root / path).exists() and path not in appended]
        if differ and not force:
            what = f"{existing} is a policy already" if existing in differ else f"{differ[0]} is there already"
            others = f" ({', '.join(differ[1:])} too)" if differ[1:] else ""
            raise UsageError(
                f"{visible(what)} and differs from what would be written{visible(others)}; nothing was written. Change "
                "it by hand, or replace it with --force."
            )
        with placed(repository, files):
            pass
        looks = None if test_set is None else f"looks/{test_set.plain}.jsonl"
        workflow = next((path for path in files if path.endswith("drgate-gate.yml")), None)
        return Adopted(repository.root, tuple(changed), checklist, looks, tuple(named), workflow, tuple(notes))


def stated(test_set: KnownSet) -> str:
    """The part of a policy that names a test set."""
    return (
        f"\n[[gate.test_sets]]\nname = {json.dumps(test_set.plain)}\nmanifest_digest = {json.dumps(test_set.digest)}\n"
        f"looks = {json.dumps(f'looks/{test_set.plain}.jsonl')}\n"
    )


def _policy(models: Sequence[str], spec: str, keys: Sequence[tuple[str, str]], test_set: KnownSet | None) -> bytes:
    roles: dict[str, list[str]] = {}
    for role, path in keys:
        roles.setdefault(role, []).append(path)
    trusted = ", ".join(f"{role} = {json.dumps(paths)}" for role, paths in roles.items())
    text = (
        "# What a model must meet before it is merged. The one on the base branch decides (docs/gate.md of drgate).\n"
        f"[gate]\nmodels = {json.dumps([*models])}\nspec = {json.dumps(spec)}\ntrusted_keys = {{ {trusted} }}\n"
        f"required_roles = {json.dumps([*roles])}\n"
    )
    unknown = "\n# The gate is closed until a test set is stated: drgate submit REPORT --test-set NAME\n"
    return (text + (unknown if test_set is None else stated(test_set))).encode()


def _keys(repository: Repository, keys: Iterable[tuple[str, Path]], files: dict[str, bytes]) -> list[tuple[str, str]]:
    """Role and path from the root of each key; those from elsewhere are copied into keys/."""
    found: list[tuple[str, str]] = []
    trusted: dict[str, list[PublicKey]] = {}
    for role, path in keys:
        if not _ROLE.fullmatch(role):
            raise UsageError(
                f"{role!r} is not the name of a role; expected small letters and digits, such as clinical."
            )
        data = read_limited(path, MAX_KEY_BYTES, "a public key, as drgate keygen writes NAME.pub", UsageError)
        trusted.setdefault(role, []).append(parse_public_key(data, str(path)))
        inside = repository.path_of(path)
        name = inside or f"keys/{path.name}"
        if files.setdefault(name, data) != data:
            raise UsageError(f"Two keys would be {name}; rename one of them.")
        found.append((role, name))
    refuse_shared_keys(trusted)
    return found


def _checklist(repository: Repository, spec: str, files: dict[str, bytes]) -> str:
    """The path of the checklist from the root; one that ships, or from elsewhere, is copied into checklists/."""
    if spec in shipped():
        with resources.as_file(resources.files("thresholds") / f"{spec}.yaml") as file:
            data = read_limited(file, limits.YAML_BYTES, "a checklist", ChecklistError)
        # The line for editors names a schema beside the shipped file, which is not there in this repository.
        data = b"".join(line for line in data.splitlines(keepends=True) if b"yaml-language-server" not in line)
        path = f"checklists/{spec}.yaml"
    else:
        read_checklist(spec)  # says what a name was meant to be
        data = read_limited(Path(spec), limits.YAML_BYTES, "a checklist", ChecklistError)
        path = repository.path_of(Path(spec)) or f"checklists/{Path(spec).name}"
    parse_yaml(data, spec)
    gating_checklist(data, path)
    files[path] = data
    return path


def _with_lines(file: Path, lines: Iterable[str]) -> bytes:
    """A file of Git's with these lines at its end, where they are missing."""
    held = read_limited(file, limits.LIST_BYTES, "a list of lines", UsageError) if file.is_file() else b""
    present = {line.strip() for line in held.decode("utf-8", "surrogateescape").splitlines()}
    missing = "".join(f"{line}\n" for line in lines if line not in present)
    return held + (b"\n" if missing and held and not held.endswith(b"\n") else b"") + missing.encode()


def _workflow(repository: Repository, forge: Forge, source: str | None, files: dict[str, bytes]) -> list[str]:
    """The workflow of a forge; sentences about what is left to do for it."""
    text = (resources.files("drgate.gate") / "workflows" / f"{forge}.yml").read_text(encoding="utf-8")
    path = {"github": ".github/workflows/drgate-gate.yml", "gitlab": ".gitlab/drgate-gate.yml"}[forge]
    notes = []
    if source is None:
        notes.append(
            f"In {path}, replace `YOUR-GROUP/drgate` and the zeros with the repository that holds drgate on your forge "
            "and the full id of a commit of it (or write it again with --drgate YOUR-GROUP/drgate@COMMIT --force)."
        )
    elif not (given := _SOURCE.fullmatch(source)):
        raise UsageError(
            f"--drgate is {source!r}; expected the repository that holds drgate and the full id of a commit, such as "
            "YOUR-GROUP/drgate@0123456789abcdef0123456789abcdef01234567. A tag or branch can be moved."
        )
    else:
        text = re.sub("# Replace .*\n", "", text).replace("YOUR-GROUP/drgate", given[1]).replace("0" * 40, given[2])
    files[path] = text.encode()
    if forge == "gitlab":
        include = f"include: [{{local: {path}}}]"
        if not (repository.root / ".gitlab-ci.yml").exists():
            files[".gitlab-ci.yml"] = f"{include}\n".encode()
        elif not same_as(repository.root / ".gitlab-ci.yml", f"{include}\n".encode()):
            notes.append(f"Add to .gitlab-ci.yml: {include}")
    return notes


def known_set(report: Path) -> KnownSet:
    """The test set of an evaluation, by its folder. Raises UsageError where it does not name one with its images."""
    from drgate.certificate.statement import read_certificate
    from drgate.given import certificate_in

    data = read_certificate(certificate_in(report)).statement.evaluation.data
    if data.manifest_digest is None:
        raise UsageError(f"{report} is of a table whose images are not known, so the gate could not recognise the set.")
    return KnownSet(data.name, data.manifest_digest)


def set_of(data: Path, split: str, columns: ColumnMap = PLAIN) -> KnownSet:
    """The test set in a manifest: of its images in a split, or all images if it has no splits."""
    from drgate.manifest import load_manifest

    manifest = load_manifest(data, columns=columns)
    if not manifest.table["split"].isna().all():
        manifest = manifest.select(split)
    return KnownSet(manifest.name, manifest.digest())
