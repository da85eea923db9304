"""Events as JSON under a stable name, with upcasters for the shapes they had before."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

E = TypeVar("E")

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]


class EventCodec(Generic[E]):
    """Names for event classes, and their data as JSON.

    An old shape is brought to today's by the upcasters of its name, in order, when it is read; nothing stored changes.
    """

    def __init__(
        self, types: Mapping[str, type[E]], upcasters: Mapping[str, tuple[Upcaster, ...]] | None = None
    ) -> None:
        self._decoders = {name: msgspec.json.Decoder(kind) for name, kind in types.items()}
        self._types = dict(types)
        self._names = {kind: name for name, kind in types.items()}
        self._upcasters = dict(upcasters or {})
        self._encoder = msgspec.json.Encoder()
        unknown = set(self._upcasters) - set(self._types)
        assert not unknown, f"upcasters for unknown events: {sorted(unknown)}"

    def encode(self, event: E) -> tuple[str, bytes]:
        """The event's name and its data."""
        return self._names[type(event)], self._encoder.encode(event)

    def decode(self, name: str, data: bytes | str) -> E:
        """The event a name and data stand for; an unknown name is a bug and says so."""
        upcasters = self._upcasters.get(name)
        if not upcasters:
            return self._decoders[name].decode(data)
        shape: dict[str, Any] = msgspec.json.decode(data)
        for upcast in upcasters:
            shape = upcast(shape)
        return msgspec.convert(shape, self._types[name])
