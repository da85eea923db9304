"""A choreography is a table: on this event have that effect, then say this; refused, say that.

Each service writes only its own part. Put together, the parts can be checked (nobody waits for an event that nobody
sends, nothing is said that nobody hears) and drawn.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rule:
    """On `on` have `effect`, then say `then`; if the answer is no, say `refused`. Events without their package.

    An empty `then` or `refused` says nothing more: this is where a checkout ends, or the effect cannot be refused.
    """

    on: str
    effect: str
    then: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """One service's rules."""

    service: str
    rules: tuple[Rule, ...]

    def on(self, event: str) -> Rule:
        return next(rule for rule in self.rules if rule.on == event)

    @property
    def events(self) -> tuple[str, ...]:
        """The events this service waits for."""
        return tuple(rule.on for rule in self.rules)


def problems(parts: Sequence[Part], begins: Sequence[str], ends: Sequence[str]) -> list[str]:
    """What is wrong with the parts together, in sentences; `begins` comes from outside, `ends` needs no listener."""
    said = {event for part in parts for rule in part.rules for event in (rule.then, rule.refused) if event}
    heard = {rule.on for part in parts for rule in part.rules}
    found = [f"nobody says {event}, yet somebody waits for it" for event in sorted(heard - said - set(begins))]
    found += [f"nobody listens to {event}" for event in sorted((said | set(begins)) - heard - set(ends))]
    found += [
        f"{part.service} has two rules on {event}"
        for part in parts
        for event in sorted({rule.on for rule in part.rules})
        if sum(rule.on == event for rule in part.rules) > 1
    ]
    return found


def diagram(parts: Sequence[Part], begins: Sequence[str]) -> str:
    """The choreography as a Mermaid flowchart: effects as nodes, events as arrows, refusals dashed."""
    lines = ["flowchart LR"]
    lines += [f"    {event}([{event}])" for event in begins]
    for part in parts:
        lines += [f"    subgraph {part.service}"]
        lines += [f"        {_node(part, rule)}[{rule.effect}]" for rule in _effects(part)]
        lines += ["    end"]
    first = [f"    {rule.on} --> {_node(part, rule)}" for part in parts for rule in part.rules if rule.on in begins]
    lines += [*first, *sorted(set(_arrows(parts)))]
    return "\n".join(lines) + "\n"


def _effects(part: Part) -> list[Rule]:
    """One rule for each effect, in order."""
    return list({rule.effect: rule for rule in reversed(part.rules)}.values())[::-1]


def _arrows(parts: Sequence[Part]) -> Iterator[str]:
    for part in parts:
        for rule in part.rules:
            for event, line in ((rule.then, "-->"), (rule.refused, "-.->")):
                for other in parts:
                    for heard in other.rules:
                        if event and heard.on == event:
                            yield f"    {_node(part, rule)} {line}|{event}| {_node(other, heard)}"


def _node(part: Part, rule: Rule) -> str:
    return f"{part.service}_{rule.effect.replace('-', '_')}"
