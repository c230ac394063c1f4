"""`drgate waive`: sign that certain findings do not close the gate until a given day."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drgate.cli.options import (
    BaseRefOption,
    FormatOption,
    PolicyOption,
    PublicKeyOption,
    QuietOption,
    SignCommandOption,
    base_ref_of,
    required_key,
)
from drgate.screen import Format, emit, tell

HELP = """Waive findings of the gate: sign what is waived, the reason, your role and an expiry date.

Use the ids that drgate gate shows. A waived finding is always shown as waived, never as passed. A waiver counts once it
is staged and until it expires, if the policy on the base branch requires the role and trusts the key for it. If the
policy requires several roles, each of them must write a waiver.

\b
Example:
  drgate waive spec:sensitivity:pdr --base-ref origin/main --role clinical --key keys/clinical.pem \\
               --expires 2026-12-31 --reason "Bridging until site B has graded its second hundred PDR eyes."
"""


def command(
    ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Findings to waive, by the ids that drgate gate shows.")
    ],
    reason: Annotated[str, typer.Option("--reason", help="Reason, shown with the waiver.")],
    role: Annotated[str, typer.Option("--role", help="Your role, as the policy names it.")],
    expires: Annotated[
        str, typer.Option("--expires", metavar="YYYY-MM-DD", help="First day on which it no longer counts (UTC).")
    ],
    key: Annotated[
        str | None,
        typer.Option(
            "--key", metavar="KEY", envvar="DRGATE_KEY", show_envvar=True, help="Private key that signs the waiver."
        ),
    ] = None,
    sign_command: SignCommandOption = None,
    public_key: PublicKeyOption = None,
    policy: PolicyOption = None,
    base_ref: BaseRefOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Waiver file. [in the policy's folder of waivers]")
    ] = None,
    format: FormatOption = Format.human,
    quiet: QuietOption = False,
) -> int:
    from datetime import UTC, datetime

    from drgate.errors import UsageError
    from drgate.files import refuse_existing, write_atomically
    from drgate.gate.gate import gate
    from drgate.gate.waiver import covers, make_waiver, still_to_waive, waivers_folder

    signer = required_key(key, sign_command, public_key)
    try:
        until = datetime.strptime(expires, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as problem:
        raise UsageError(f"--expires is {expires!r}; expected a day, such as 2026-12-31.") from problem
    base = base_ref_of(base_ref)
    found = covers(gate(Path(), base_ref=base, policy=policy), ids)
    lacking = still_to_waive(Path(), found, role, signer.public, base_ref=base, policy=policy)
    waiver = make_waiver(found, reason=reason, role=role, issued=datetime.now(UTC), expires=until, key=signer)
    path = out or waivers_folder(Path(), policy) / f"{waiver.digest[7:19]}.{role}.json"
    refuse_existing(path, "give another name with --out")
    write_atomically(path, waiver.to_bytes())
    plain = {"file": str(path), "covers": [cover.id for cover in found], "keyid": signer.public.id, "lacking": lacking}
    done = f"Wrote {path}. It counts once it is staged (git add). {lacking}".strip()
    emit(plain, lambda _: tell(done, quiet), format, quiet)
    return 0
