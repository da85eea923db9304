"""Identifiers that sort by the time they were made: UUIDv7 (RFC 9562 §5.7) behind a prefix that names the thing.

Time and randomness are arguments; `libs.runtime.clock.Ids` supplies them.
"""

RANDOM_BYTES = 10
_TIMESTAMP_LIMIT = 1 << 48


def sortable_id(prefix: str, at_unix_ms: int, random: bytes) -> str:
    """`ord_0192f3c1a5b37cde8f0123456789abcd`: prefix, 48 bits of time, version, variant, 74 random bits."""
    assert len(random) == RANDOM_BYTES, f"{RANDOM_BYTES} random bytes wanted, got {len(random)}"
    assert 0 <= at_unix_ms < _TIMESTAMP_LIMIT, at_unix_ms
    value = int.from_bytes(random)
    version_and_high = 0x7000 | (value >> 68 & 0x0FFF)
    variant_and_low = 0x8000_0000_0000_0000 | (value & 0x3FFF_FFFF_FFFF_FFFF)
    return f"{prefix}_{at_unix_ms:012x}{version_and_high:04x}{variant_and_low:016x}"
