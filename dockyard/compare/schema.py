"""What `--json` prints as a JSON Schema, drawn from the result's own types; `schema.json` beside this is a copy."""

import msgspec

from dockyard.compare.result import Comparison


def encoded() -> bytes:
    """The schema (JSON Schema 2020-12), the same bytes for the same types."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | msgspec.json.schema(Comparison)
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"
