"""The two transactions on a real database: claimed once, settled once, and nobody pays for a neighbour's mistake."""

from collections.abc import Sequence

import pytest

from libs.kernel.errors import DockyardError, Invalid, NotFound
from libs.kernel.money import Money
from libs.tcc.barrier import Entry, Key, Operation
from services.payment.domain import Charged, Payment, Status, payment_id_of
from services.payment.handlers import (
    Ask,
    Begin,
    BeginCharge,
    BeginRefund,
    Done,
    OpenAccount,
    Settle,
    SettleCharge,
    SettleRefund,
)
from services.payment.ports import Account
from tests.integration.payment.till import DECLINED, PRICE, Till, rows

CHARGED = Charged("ch_1")


def do(transaction_id: str, step: str = "charge") -> Key:
    return Key(transaction_id, step, Operation.DO)


def undo(transaction_id: str, step: str = "charge") -> Key:
    return Key(transaction_id, step, Operation.UNDO)


def begin_charge(till: Till, transaction_id: str, fingerprint: bytes = b"") -> BeginCharge:
    return BeginCharge(Entry(do(transaction_id), fingerprint), till.payment(transaction_id))


def begin_refund(transaction_id: str, step: str = "charge") -> BeginRefund:
    return BeginRefund(Entry(undo(transaction_id, step), b""))


def name(key: str, account_id: str, called: str, fingerprint: bytes = b"") -> OpenAccount:
    return OpenAccount(Entry(do(f"key:{key}", "open-account"), fingerprint), account_id, called)


async def begun(till: Till, *commands: Begin) -> list[str]:
    return told(await till.handlers.begin(commands))


async def settled(till: Till, *commands: Settle) -> list[str]:
    return told(await till.handlers.settle(commands))


def told(outcomes: Sequence[Done | Ask | DockyardError]) -> list[str]:
    """Each outcome in a word."""
    return [_told(outcome) for outcome in outcomes]


def _told(outcome: Done | Ask | DockyardError) -> str:
    match outcome:
        case Done(payment_id=""):
            return "nothing"
        case Done():
            return "done"
        case Ask(payment=Payment(status=Status.CHARGING, refund_wanted=True)):
            return "ask charging wanted back"
        case Ask(payment=payment):
            return f"ask {payment.status}"
        case DockyardError(code=code):
            return code


async def test_a_charge_is_begun_asked_and_settled_and_then_replayed(till: Till) -> None:
    assert await begun(till, begin_charge(till, "t1")) == ["ask charging"]
    assert await settled(till, SettleCharge(do("t1"), CHARGED)) == ["done"]
    assert await begun(till, begin_charge(till, "t1")) == ["done"]
    assert await till.ledger() == {"customer:ada": 4900, "merchant": -4900}


async def test_what_was_begun_and_not_settled_is_asked_again_under_the_same_key(till: Till) -> None:
    first, again = (
        await till.handlers.begin([begin_charge(till, "t1")]),
        await till.handlers.begin([begin_charge(till, "t1")]),
    )
    assert isinstance(first[0], Ask) and isinstance(again[0], Ask)
    assert first[0].payment.payment_id == again[0].payment.payment_id == payment_id_of("t1", "charge")


async def test_a_decline_is_remembered_with_its_reason(till: Till) -> None:
    await begun(till, begin_charge(till, "t1"))
    assert await settled(till, SettleCharge(do("t1"), DECLINED)) == ["card-declined"]
    outcome = (await till.handlers.begin([begin_charge(till, "t1")]))[0]
    assert isinstance(outcome, DockyardError)
    assert (outcome.code, outcome.message) == ("card-declined", DECLINED.message)
    assert await till.ledger() == {}


async def test_a_verdict_that_arrives_twice_moves_the_money_once(till: Till) -> None:
    await begun(till, begin_charge(till, "t1"), begin_charge(till, "t2"))
    verdicts = [SettleCharge(do("t1"), CHARGED), SettleCharge(do("t2"), DECLINED)]
    assert await settled(till, *verdicts) == await settled(till, *verdicts) == ["done", "card-declined"]
    assert await till.ledger() == {"customer:ada": 4900, "merchant": -4900}


async def test_a_refund_gives_the_money_back_once(till: Till) -> None:
    await begun(till, begin_charge(till, "t1"))
    await settled(till, SettleCharge(do("t1"), CHARGED))
    assert await begun(till, begin_refund("t1")) == ["ask refunding"]
    assert await settled(till, SettleRefund(undo("t1"))) == await settled(till, SettleRefund(undo("t1"))) == ["done"]
    assert await begun(till, begin_refund("t1")) == ["done"]
    assert await till.ledger() == {"customer:ada": 0, "merchant": 0}
    assert await till.status("t1") == "refunded"


async def test_a_refund_asked_for_too_early_outlives_the_process_that_was_asked(till: Till) -> None:
    await begun(till, begin_charge(till, "t1"))
    assert await begun(till, begin_refund("t1")) == ["ask charging wanted back"]
    assert await settled(till, SettleCharge(do("t1"), CHARGED)) == ["done"]
    assert await till.status("t1") == "refunding"
    assert await begun(till, begin_refund("t1")) == ["ask refunding"]
    assert await settled(till, SettleRefund(undo("t1"))) == ["done"]
    assert await till.ledger() == {"customer:ada": 0, "merchant": 0}


async def test_a_late_verdict_does_not_take_back_a_refund(till: Till) -> None:
    await begun(till, begin_charge(till, "t1"))
    await settled(till, SettleCharge(do("t1"), CHARGED))
    await begun(till, begin_refund("t1"))
    await settled(till, SettleRefund(undo("t1")))
    assert await settled(till, SettleCharge(do("t1"), CHARGED)) == ["done"]
    assert await till.status("t1") == "refunded"
    assert await till.ledger() == {"customer:ada": 0, "merchant": 0}


async def test_of_a_declined_charge_there_is_nothing_to_refund(till: Till) -> None:
    await begun(till, begin_charge(till, "t1"))
    await settled(till, SettleCharge(do("t1"), DECLINED))
    assert await begun(till, begin_refund("t1")) == await begun(till, begin_refund("t1")) == ["nothing"]


async def test_a_refund_that_comes_first_keeps_the_charge_from_ever_happening(till: Till) -> None:
    assert await begun(till, begin_refund("t1")) == ["nothing"]
    assert await begun(till, begin_charge(till, "t1")) == ["undone-before-done"]
    assert await rows(till.url, "SELECT payment_id, 0 FROM payments") == []


async def test_a_key_does_not_stand_for_two_charges(till: Till) -> None:
    await begun(till, begin_charge(till, "t1", b"4900"))
    assert await begun(till, begin_charge(till, "t1", b"5000")) == ["idempotency-key-reused"]


async def test_what_was_no_charge_cannot_be_refunded(till: Till) -> None:
    await begun(till, name("k", "ada", "Ada"))
    refund = begin_refund("key:k", "open-account")
    assert await begun(till, refund) == await begun(till, refund) == ["not-a-charge"]


async def test_in_a_batch_everybody_gets_their_own_answer(till: Till) -> None:
    await begun(till, *(begin_charge(till, one) for one in ("charged", "declined", "unsettled")))
    await settled(till, SettleCharge(do("charged"), CHARGED), SettleCharge(do("declined"), DECLINED))
    assert await begun(
        till,
        begin_charge(till, "charged"),
        begin_refund("declined"),
        begin_charge(till, "unsettled"),
        begin_charge(till, "unsettled-too", b""),
        begin_refund("never"),
        name("k", "grace", "Grace"),
    ) == ["done", "nothing", "ask charging", "ask charging", "nothing", "nothing"]


async def test_a_name_is_given_when_it_is_given_and_not_by_a_repeat(till: Till) -> None:
    await begun(till, name("first", "ada", "Ada"))
    await begun(till, name("second", "ada", "Ada Lovelace"))
    await begun(till, name("first", "ada", "Ada"))
    assert await begun(till, name("second", "ada", "Mallory", b"other")) == ["idempotency-key-reused"]
    assert (await till.queries.account("ada")).name == "Ada Lovelace"


async def test_two_names_in_one_batch_are_given_one_after_the_other(till: Till) -> None:
    await begun(till, name("first", "ada", "Ada"), name("second", "ada", "Countess"), name("third", "bob", "Bob"))
    assert (await till.queries.account("ada")).name == "Countess"


async def test_the_first_charge_opens_the_account(till: Till) -> None:
    await begun(till, begin_charge(till, "t1"), begin_charge(till, "t2"))
    assert await till.queries.account("ada") == Account("ada", "ada", Money(0, "EUR"))


async def test_a_balance_adds_up_one_currency(till: Till) -> None:
    await till.charge("t1")
    await till.charge("t2", amount=Money(700, "USD"))
    await till.charge("t3")
    assert (await till.queries.account("ada")).charged == PRICE * 2
    found, _ = await till.queries.postings("ada", "", 10)
    assert [str(one.amount) for one in found] == ["49.00 EUR", "7.00 USD", "49.00 EUR"]


async def test_a_statement_is_paged_without_gaps_newest_first(till: Till) -> None:
    for number in range(5):
        await till.charge(f"t{number}", amount=Money(100 + number, "EUR"))
    seen, page = [], ""
    while True:
        found, page = await till.queries.postings("ada", page, 2)
        seen += [one.amount.minor_units for one in found]
        if not page:
            break
    assert seen == [104, 103, 102, 101, 100]


@pytest.mark.parametrize("token", ["x", "-1", "1" * 30, "\0"])
async def test_a_page_token_of_somebody_elses_is_refused(till: Till, token: str) -> None:
    await till.charge("t1")
    with pytest.raises(Invalid, match="page_token"):
        await till.queries.postings("ada", token, 2)


async def test_nobody_has_no_account_no_statement_and_no_payment(till: Till) -> None:
    for reading in (
        till.queries.account("nobody"),
        till.queries.postings("nobody", "", 2),
        till.queries.payment("pay_none"),
    ):
        with pytest.raises(NotFound):
            await reading


async def test_what_has_not_ended_is_found_page_by_page_oldest_first(till: Till) -> None:
    for transaction_id in ("t1", "t2", "t3", "t4"):
        await begun(till, begin_charge(till, transaction_id))
        till.clock.advance(1)
    await settled(till, SettleCharge(do("t2"), CHARGED))
    now = till.clock.now()
    first = await till.queries.unfinished(now, None, 2)
    rest = await till.queries.unfinished(now, first[-1], 2)
    assert [one.transaction_id for one in (*first, *rest)] == ["t1", "t3", "t4"]
    assert await till.queries.unfinished(now, rest[-1], 2) == []
    assert [one.status for one in first] == [Status.CHARGING] * 2
    young = await till.queries.unfinished(first[-1].created_at, None, 2)
    assert [one.transaction_id for one in young] == ["t1"]
