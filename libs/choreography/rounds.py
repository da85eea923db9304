"""Deliveries in rounds: what concerns one subject comes one after another, the rest together."""

from collections.abc import Sequence

from libs.messaging.event import Delivery


def rounds(deliveries: Sequence[Delivery]) -> list[list[Delivery]]:
    """Rounds in which each subject appears at most once; everything about one subject keeps its order."""
    found: list[list[Delivery]] = []
    seen: dict[str, int] = {}
    for delivery in deliveries:
        number = seen.get(delivery.subject, 0)
        seen[delivery.subject] = number + 1
        if number == len(found):
            found.append([])
        found[number].append(delivery)
    return found
