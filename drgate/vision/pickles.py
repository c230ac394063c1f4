"""A checkpoint's values, gone through before torch makes them: whatever is made is written in the file.

    rehearse(pickled, allowed)               # raises CheckpointError or pickle.UnpicklingError

`weights_only=True` runs no code of the file, but what it calls can make much of little (an encoding, copies of copies),
take any time, or make tensors of memory that nobody wrote: numbers of another program, others each time the file is
read. Here stand-ins are called in their place. Tensors are parts of the file, everything else is counted.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from drgate.errors import CheckpointError

_STORAGES: Final = tuple(
    f"{name}Storage" for name in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
)


def rehearse(data: bytes, allowed: Mapping[str, Any]) -> Any:
    """The values in a pickle, with stand-ins for tensors.

    allowed: other types that may be read, by their names in the file.

    Raises CheckpointError for tensors without numbers of their own, and for copies that add up to more than the pickle;
    pickle.UnpicklingError for other types; any exception for a damaged pickle.
    """
    return _Rehearsal(data, allowed).load()


@dataclass(frozen=True, slots=True)
class _StandIn:
    """In place of a tensor, or of a part of the file with so many numbers."""

    numbers: int


class _Named(dict[Any, Any]):
    """In place of an ordered dictionary, which can have attributes."""


class _Rehearsal(pickle._Unpickler):
    # The one written in Python, as torch's: the other one makes room for as many values as a file says it will name.

    def __init__(self, data: bytes, allowed: Mapping[str, Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._room = len(data)
        self._known: dict[str, Any] = {
            "collections.OrderedDict": lambda: _Named(),
            "collections.Counter": lambda values: self._copied(values, dict),
            "_codecs.encode": self._encoded,
            "builtins.set": lambda values: self._copied(values, list, frozenset),
            "torch.Size": lambda values: self._copied(values, tuple),
            "torch.device": lambda *names: str(names[:2]),
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch._utils._rebuild_parameter": _parameter,
            **allowed,
        }

    def find_class(self, module: str, name: str) -> Any:
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if full in self._known:
            return self._known[full]
        if module == "torch" and (name in _STORAGES or name.islower()):  # torch.float32: a type's name
            return full
        if module == "torch._utils":
            raise CheckpointError("it has a tensor without numbers of its own; expected plain tensors.")
        raise pickle.UnpicklingError(f"{full[:100]} is not read")

    def persistent_load(self, pid: Any) -> _StandIn:
        what, kind, _key, _place, numbers = pid
        if what != "storage" or kind.removeprefix("torch.") not in _STORAGES or type(numbers) is not int:
            raise pickle.UnpicklingError("it names a part of the file in another way than torch.save")
        return _StandIn(numbers)

    def _copied(self, value: Any, of: type[Any], to: Callable[[Any], Any] | None = None) -> Any:
        """A copy of a value of this type; all copies together are not larger than the pickle."""
        if not isinstance(value, of):
            raise pickle.UnpicklingError(f"it makes a {of.__name__} of something else")
        self._room -= 1 + len(value)
        if self._room < 0:
            raise CheckpointError("its values, written out, are too many.")
        return (to or of)(value)

    def _encoded(self, text: str, name: str) -> Any:
        """Bytes, which the pickle of torch.save keeps as text."""
        if name != "latin1":
            raise pickle.UnpicklingError(f"bytes in the encoding {str(name)[:20]!r} are not read")
        return self._copied(text, str, lambda written: written.encode("latin1"))


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: bool, hooks: Any, metadata: Any = None
) -> _StandIn:
    """A tensor, whose numbers are in a part of the file."""
    whole = [offset, *size, *stride]
    if not isinstance(storage, _StandIn) or any(type(one) is not int or one < 0 for one in whole) or len(whole) > 33:
        raise pickle.UnpicklingError("it makes a tensor in another way than torch.save")
    needed = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if hooks or metadata or (needed and max(needed, last + 1) > storage.numbers):
        raise CheckpointError("it has a tensor without numbers of its own; expected plain tensors.")
    return _StandIn(needed)


def _parameter(tensor: Any, _grad: bool, hooks: Any) -> Any:
    if not isinstance(tensor, _StandIn) or hooks:
        raise pickle.UnpicklingError("it makes a parameter of something else than a tensor")
    return tensor
