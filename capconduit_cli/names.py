"""Arguments and options that name something of the estate, completed by the shell from the database."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from capconduit_cli.app import CliState
from capconduit_cli.office import names_in_office
from capconduit_cli.params import NONE, Offer, completer

if TYPE_CHECKING:
    from capconduit.services.office import Office

Names = Callable[[CliState], Iterable[Offer]]


def _sellers(made: Office) -> Iterable[Offer]:
    from capconduit.services.sellers import list_sellers

    return ((view.seller.name, f"{view.seller.currency}, {view.seller.status}") for view in list_sellers(made))


def _rates(made: Office) -> Iterable[Offer]:
    from capconduit.services.rates import list_rates

    return (rate.name for rate in list_rates(made))


def _trunks(made: Office) -> Iterable[Offer]:
    from capconduit.services.trunks import list_trunks

    return ((trunk.name, f"{trunk.kind} {trunk.hosts}") for trunk in list_trunks(made))


def _campaigns(made: Office) -> Iterable[Offer]:
    from capconduit.services.campaigns import list_campaigns

    return ((view.campaign.name, f"{view.seller}, {view.campaign.status}") for view in list_campaigns(made))


def _targets(made: Office) -> Iterable[Offer]:
    from capconduit.services.targets import list_targets

    return ((view.target.name, view.target.address or f"agent {view.agent}") for view in list_targets(made))


def _providers(made: Office) -> Iterable[Offer]:
    from capconduit.services.providers import list_providers

    return ((provider.name, f"{provider.kind} {provider.model}".rstrip()) for provider in list_providers(made))


def _agents(made: Office) -> Iterable[Offer]:
    from capconduit.services.agents import list_agents

    return ((view.agent.name, ", ".join(view.providers)) for view in list_agents(made))


def _schedules(made: Office) -> Iterable[Offer]:
    from capconduit.services.schedules import list_schedules

    return ((view.schedule.name, view.schedule.hours) for view in list_schedules(made))


def _blocks(made: Office) -> Iterable[Offer]:
    from capconduit.services.blocks import Where, list_blocks

    return ((view.block.pattern, view.block.reason) for view in list_blocks(made, Where()))


def _rules(made: Office) -> Iterable[Offer]:
    from capconduit.services.targets import list_rules

    return (f"{view.campaign}/{view.target}" for view in list_rules(made))


def _dids(made: Office) -> Iterable[Offer]:
    from capconduit.services.dids import list_dids

    return ((view.did.number, view.campaign) for view in list_dids(made))


def _calls(made: Office) -> Iterable[Offer]:
    from capconduit.services.calls import list_calls

    return ((view.call.id, f"{view.call.did_number} {view.campaign}") for view in list_calls(made))


def _ended_calls(made: Office) -> Iterable[Offer]:
    from capconduit.services.calls import find_cdrs

    return ((cdr.call_id, f"{cdr.did} {cdr.campaign}") for cdr in find_cdrs(made, limit=_RECENT))


def _all_calls(made: Office) -> Iterable[Offer]:
    return [*_calls(made), *_ended_calls(made)]


def _settings(made: Office) -> Iterable[Offer]:
    from capconduit.services.settings import list_settings

    return ((view.name, view.description) for view in list_settings(made))


def _users(made: Office) -> Iterable[Offer]:
    from capconduit.services.users import list_users

    return ((view.user.name, f"{view.user.role}, {view.user.status}") for view in list_users(made))


def _tokens(made: Office) -> Iterable[Offer]:
    from capconduit.services.tokens import list_tokens

    return ((view.token.name, view.user) for view in list_tokens(made))


def _requests(made: Office) -> Iterable[Offer]:
    from capconduit.services.requests import list_requests

    views = list_requests(made)
    return ((v.request.id, f"{v.seller}, {v.request.quantity} {v.request.area}, {v.request.status}") for v in views)


_RECENT: Final = 50

SELLERS: Final = names_in_office(_sellers)
RATES: Final = names_in_office(_rates)
TRUNKS: Final = names_in_office(_trunks)
CAMPAIGNS: Final = names_in_office(_campaigns)
TARGETS: Final = names_in_office(_targets)
PROVIDERS: Final = names_in_office(_providers)
AGENTS: Final = names_in_office(_agents)
SCHEDULES: Final = names_in_office(_schedules)
BLOCKS: Final = names_in_office(_blocks)
RULES: Final = names_in_office(_rules)
DIDS: Final = names_in_office(_dids)
CALLS: Final = names_in_office(_calls)
CDRS: Final = names_in_office(_ended_calls)
SETTINGS: Final = names_in_office(_settings)
USERS: Final = names_in_office(_users)
TOKENS: Final = names_in_office(_tokens)
REQUESTS: Final = names_in_office(_requests)
ANY_CALLS: Final = names_in_office(_all_calls)

_OF_SCOPE: Final = {
    "seller": SELLERS,
    "campaign": CAMPAIGNS,
    "target": TARGETS,
    "rule": RULES,
    "did": DIDS,
    "trunk": TRUNKS,
}


def name_argument(names: Names, metavar: str, help: str) -> Any:
    """An argument whose value is one of `names`."""
    return typer.Argument(metavar=metavar, help=help, autocompletion=completer(names))


def name_option(option: str, names: Names, help: str) -> Any:
    """An option whose value is one of `names`."""
    return typer.Option(option, metavar="NAME", help=help, autocompletion=completer(names))


def name_or_none_option(option: str, names: Names, help: str) -> Any:
    """The same, where `none` takes away what was set; the command passes it through `named`."""

    def offered(run: CliState) -> Iterable[Offer]:
        return [*names(run), NONE]

    return typer.Option(option, metavar=f"NAME|{NONE}", help=help, autocompletion=completer(offered))


def named(name: str | None) -> str | None:
    """The name that was given; empty for `none`, None where nothing was given."""
    return "" if name is not None and name.lower() == NONE else name


def _complete_scope_name(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Names of what the SCOPE before is about."""
    scope = ctx.params.get("scope")
    names = _OF_SCOPE.get(str(scope))
    return completer(names)(ctx, incomplete) if names else []


SellerName = Annotated[str, name_argument(SELLERS, "SELLER", "The seller's name.")]
RateName = Annotated[str, name_argument(RATES, "RATE", "The rate's name.")]
TrunkName = Annotated[str, name_argument(TRUNKS, "TRUNK", "The trunk's name.")]
CampaignName = Annotated[str, name_argument(CAMPAIGNS, "CAMPAIGN", "The campaign's name.")]
TargetName = Annotated[str, name_argument(TARGETS, "TARGET", "The target's name.")]
ProviderName = Annotated[str, name_argument(PROVIDERS, "PROVIDER", "The provider's name.")]
AgentName = Annotated[str, name_argument(AGENTS, "AGENT", "The agent's name.")]
ScheduleName = Annotated[str, name_argument(SCHEDULES, "SCHEDULE", "The schedule's name.")]
BlockName = Annotated[str, name_argument(BLOCKS, "BLOCK", "Its pattern, in any notation of numbers, or its id.")]
Number = Annotated[str, name_argument(DIDS, "NUMBER", "The number, in any usual notation.")]
UserName = Annotated[str, name_argument(USERS, "USER", "The user's name.")]
TokenName = Annotated[str, name_argument(TOKENS, "TOKEN", "The token's name.")]
RequestId = Annotated[
    str, name_argument(REQUESTS, "REQUEST", "The request's id; the beginning or end of one is enough.")
]
SettingName = Annotated[str, name_argument(SETTINGS, "SETTING", "The setting's name.")]
CALL_HELP: Final = (
    "The call's id or Asterisk's uniqueid; the beginning or end of one is enough where it is unambiguous."
)
LiveCall = Annotated[str, name_argument(CALLS, "CALL", CALL_HELP)]
EndedCall = Annotated[str, name_argument(CDRS, "CALL", CALL_HELP)]
AnyCall = Annotated[str, name_argument(ANY_CALLS, "CALL", CALL_HELP)]
ScopeName = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="What is limited; a rule is CAMPAIGN/TARGET, the system has no name.",
        autocompletion=_complete_scope_name,
    ),
]
NewName = Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, '.', '_' and '-'.")]
