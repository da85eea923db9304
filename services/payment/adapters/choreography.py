"""Payment's part of the choreographed checkout: begins to charge on one event, and to take back on another.

What came of it is said by the transaction that settles it, or by this one where nothing has to be asked.
"""

from collections.abc import Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from libs.choreography.events import Reaction, reactions
from libs.choreography.rounds import rounds
from libs.kernel.errors import DockyardError, Invalid, Refused
from libs.kernel.money import Money
from libs.messaging.event import Delivery
from libs.runtime.clock import Clock
from proto.events.v1 import events_pb2
from services.payment.adapters.units import PostgresUnit, PostgresUnits
from services.payment.choreography import PART
from services.payment.domain import CHARGE, Payment, Status, payment_id_of
from services.payment.following import Begun
from services.payment.handlers import Ask, BeginCharge, BeginRefund, Done, begin, charging, taking_back

Command = BeginCharge | BeginRefund


class Checkouts:
    """Begins what the events of checkouts call for; the processor is asked after the commit.

    One consumer's, who applies one transaction after another.
    """

    def __init__(
        self, units: PostgresUnits, follow: Callable[[Sequence[Begun]], None], said: Callable[[], None], clock: Clock
    ) -> None:
        self._units = units
        self._follow = follow
        self._said = said
        self._clock = clock
        self._begun: list[Begun] = []

    async def apply(self, connection: AsyncConnection, deliveries: Sequence[Delivery]) -> None:
        """Raises RefundRefused, DecodeError, and what the database says when the same may be tried again."""
        self._begun = []  # what an earlier transaction began that did not commit never happened
        unit = self._units.joining(connection)
        for together in rounds(deliveries):
            await self._react(unit, reactions(PART, together))

    def committed(self) -> None:
        """Carries on what the transaction that was last applied began."""
        begun, self._begun = self._begun, []
        self._follow(begun)
        self._said()

    async def _react(self, unit: PostgresUnit, asked: Sequence[Reaction]) -> None:
        commands = [(reaction, self._command(reaction)) for reaction in asked]
        possible = [(reaction, one) for reaction, one in commands if not isinstance(one, Refused)]
        answered: list[tuple[Reaction, str | Refused]] = [
            (reaction, one) for reaction, one in commands if isinstance(one, Refused)
        ]
        outcomes = await begin(unit, [command for _, command in possible])
        owed = []
        for (reaction, command), one in zip(possible, outcomes, strict=True):
            match one:
                case Ask(payment=payment):
                    owed.append((command.entry.key, reaction))
                    self._begun.append(Begun(payment, reaction.traceparent))
                case Done(payment_id=payment_id):
                    answered.append((reaction, payment_id))
                case Refused():
                    answered.append((reaction, one))
                case DockyardError():
                    raise one
        await unit.announcements.owe(owed)
        await unit.announcements.announce(answered)

    def _command(self, reaction: Reaction) -> Command | Refused:
        """What the event asks for; a charge that can never be made is refused, as every other is."""
        order_id = reaction.order_id
        if not isinstance(reaction.event, events_pb2.StockDeducted):
            return taking_back(order_id, CHARGE, announced=True)
        checkout = reaction.event.checkout
        try:
            return charging(
                Payment(
                    payment_id=payment_id_of(order_id, CHARGE),
                    transaction_id=order_id,
                    step=CHARGE,
                    account_id=checkout.customer_id,
                    amount=Money(checkout.total.minor_units, checkout.total.currency),
                    card_token=checkout.card_token,
                    status=Status.CHARGING,
                    created_at=self._clock.now(),
                    announced=True,
                )
            )
        except Invalid as error:
            return Refused(error.message, code=error.code)
