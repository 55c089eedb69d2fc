"""The sentences of the error analysis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gatecast.evaluation.notation import listed, p_equals, percent

ALPHA: Final = 0.05  # of a table, over all its groups

_MOST_NAMED: Final = 3
_CHANCE: Final = "by more than chance explains"


@dataclass(frozen=True)
class Finding:
    """The skill of one group of forecasts, held against that of all others that have figures.

    Attributes:
        label: Of the group.
        phrase: Where or when it is, within a sentence.
        skill: Its skill.
        elsewhere: The skill of the others.
        p_value: Of their difference, corrected for the number of groups.
    """

    label: str
    phrase: str
    skill: float
    elsewhere: float
    p_value: float

    @property
    def stands_out(self) -> bool:
        """Whether it differs from the others by more than chance explains."""
        return self.p_value <= ALPHA


def groups_sentence(findings: Sequence[Finding], noun: str, baseline: str) -> str:
    """Which groups differ from the rest.

    Args:
        findings: Of the groups, two or more.
        noun: What a group is called.
        baseline: The baseline as readers know it.
    """
    better, worse = _apart(findings)
    if not better and not worse:
        low, high = _extremes(findings)
        spread = f"from {percent(low.skill)} {low.phrase} to {percent(high.skill)} {high.phrase}"
        return f"No {noun} differs from the rest {_CHANCE}: the skill over {baseline} runs {spread}."
    parts = [f"{word} {_named(chosen)}" for word, chosen in (("higher", better), ("lower", worse)) if chosen]
    others = "" if len(better) + len(worse) == len(findings) else f"; no other {noun} differs from the rest so much"
    return f"The skill over {baseline} is {' and '.join(parts)}, {_CHANCE}{others}."


def months_sentence(findings: Sequence[Finding], noun: str, baseline: str) -> str:
    """The best and the worst month, how many have skill, and whether any stands out; arguments as `groups_sentence`."""
    low, high = _extremes(findings)
    n_ahead = sum(each.skill > 0 for each in findings)
    share = f"{n_ahead} of {len(findings)} {noun}s ({percent(n_ahead / len(findings), 0)})"
    ends = f"best {high.phrase} ({percent(high.skill)}) and worst {low.phrase} ({percent(low.skill)})"
    found = f"The skill over {baseline} is positive in {share}, {ends}"
    apart = [each for each in findings if each.stands_out]
    if not apart:
        return f"{found}; no {noun} differs from the rest {_CHANCE}."
    names = _short([each.label for each in apart])
    return f"{found}; {names} {'differs' if len(apart) == 1 else 'differ'} from the rest {_CHANCE}."


def age_sentence(findings: Sequence[Finding], p_value: float, baseline: str) -> str:
    """Whether a model goes stale within a fold.

    Args:
        findings: Of the parts of a fold, in order.
        p_value: Against the null that the skill does not fall from part to part.
        baseline: The baseline as readers know it.
    """
    first, last = findings[0], findings[-1]
    course = f"The skill over {baseline} is {percent(first.skill)} {first.phrase} and {percent(last.skill)} in the last"
    if p_value <= ALPHA:
        return (
            f"{course}: it falls with the age of the model {_CHANCE} ({p_equals(p_value)}); refitting more often pays."
        )
    return (
        f"{course}: no fall with the age of the model is proven ({p_equals(p_value)}), and so no gain from refitting"
        " more often."
    )


def too_few_sentence(phrases: Sequence[str], noun: str, least: int) -> str:
    """What there is to say where too few groups have figures.

    Args:
        phrases: Of the groups that have figures, fewer than can be compared.
        noun: What a group is called.
        least: Forecasts that figures need.
    """
    if phrases:
        return (
            f"Figures need {least} forecasts, and there are as many only {listed(phrases)}: too few groups to compare."
        )
    return f"No {noun} has the {least} forecasts that figures need."


def _apart(findings: Sequence[Finding]) -> tuple[list[Finding], list[Finding]]:
    """Those that are better than the rest, and those that are worse, the clearest first."""
    apart = sorted((each for each in findings if each.stands_out), key=lambda each: each.p_value)
    better = [each for each in apart if each.skill > each.elsewhere]
    return better, [each for each in apart if each not in better]


def _extremes(findings: Sequence[Finding]) -> tuple[Finding, Finding]:
    return min(findings, key=lambda each: each.skill), max(findings, key=lambda each: each.skill)


def _named(findings: Sequence[Finding]) -> str:
    return _short(
        [f"{each.phrase} ({percent(each.skill)} against {percent(each.elsewhere)} elsewhere)" for each in findings]
    )


def _short(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return listed([*names[:_MOST_NAMED], *([f"{more} more"] if more > 0 else [])])
