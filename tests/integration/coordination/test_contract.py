"""One contract for every style; and the naive one, which must break it wherever something goes wrong."""

import pytest

from tests.integration.coordination.cases import CASES, FAULTS, NAIVE_KEEPS, Case
from tests.integration.coordination.yard import HONEST, NAIVE, Broken, Yard


def _named(value: object) -> str:
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize("style", HONEST)
@pytest.mark.parametrize("case", CASES, ids=_named)
def test_the_contract_is_kept(case: Case, style: str, yard: Yard) -> None:
    case(yard, style)


@pytest.mark.parametrize("case", FAULTS, ids=_named)
def test_calls_in_a_row_break_the_contract_when_something_goes_wrong(case: Case, yard: Yard) -> None:
    with pytest.raises(Broken) as broken:
        case(yard, NAIVE)
    print(f"naive {_named(case)}: {broken.value}")


@pytest.mark.parametrize("case", NAIVE_KEEPS, ids=_named)
def test_calls_in_a_row_will_do_as_long_as_nothing_goes_wrong(case: Case, yard: Yard) -> None:
    case(yard, NAIVE)
