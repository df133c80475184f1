"""Chosen clients' updates in a running Flower federation, as update files (extra "flower").

    watched = watch(strategy, Setting(target=target, mechanism=FedAvg(steps=1, lr=0.1), folder=Path("runs/flower")))
    watched.strategy.start(grid=grid, initial_arrays=arrays, num_rounds=3)
    watched.entries

Strategies that speak in messages (`flwr.serverapp.strategy`) and the older ones (`flwr.server.strategy`) alike.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

from leakscope.core.errors import BadInput, first_line, optional
from leakscope.integrations.federation import FAILURES, Arrays, Entry, Exchange, Node, Setting, keep, log, record

if TYPE_CHECKING:
    from flwr.app import Message

StrategyT = TypeVar("StrategyT")

EXAMPLES = "num-examples"
"""Under which name Flower's clients report how many examples they have, unless the strategy says otherwise."""


@final
@dataclass(eq=False)
class Watched(Generic[StrategyT]):
    """A strategy that is looked at. entries: what came of the chosen clients, in the order of rounds."""

    strategy: StrategyT
    entries: list[Entry] = field(default_factory=list)


def watch(strategy: StrategyT, setting: Setting) -> Watched[StrategyT]:
    """A copy of `strategy` that trains the same, and writes the updates of the chosen clients before they are mixed.

    For each of them and each round: the update (weights returned minus weights sent, by name), the weights that were
    sent, if there are attacks their claim, and a line in `rounds.jsonl`. A chosen client that was not asked, failed,
    or returned something else has a line too, and no problem of the audit ends the training. The caller's own
    `strategy` is not changed; what it keeps between rounds, the copy keeps.
    Raises `BadInput` when it is no Flower strategy, `MissingExtra` without the package.
    """
    messages = optional("flwr.serverapp.strategy", extra="flower", purpose="watching a Flower federation")
    older = optional("flwr.server.strategy", extra="flower", purpose="watching a Flower federation")
    copied: Any = copy.copy(strategy)
    watched: Watched[StrategyT] = Watched(copied)
    if isinstance(strategy, messages.Strategy):
        _watch_messages(copied, _Rounds(setting, watched.entries))
    elif isinstance(strategy, older.Strategy):
        _watch_older(copied, _Rounds(setting, watched.entries))
    else:
        raise BadInput(
            f"expected a strategy of flwr.serverapp.strategy or flwr.server.strategy, got {type(strategy).__name__}"
        )
    return watched


@final
@dataclass(eq=False)
class _Rounds:
    """What was sent in this round, until the answers are there."""

    setting: Setting
    entries: list[Entry]
    sent: dict[Node, Any] = field(default_factory=dict)

    def close(self, number: int, returned: Mapping[Node, _Answer]) -> None:
        """Record the chosen clients of the round; the others are none of our business."""
        wanted = [str(node) for node in self.setting.nodes]
        if wanted:
            chosen = [node for node in {**self.sent, **returned} if str(node) in wanted]
            for absent in sorted(set(wanted) - {str(node) for node in chosen}):
                self._note(number, absent, "it was not asked in this round")
        else:
            chosen = sorted((n for n, answer in returned.items() if not answer.failure), key=str)[: self.setting.most]
            if not chosen:
                self._note(number, "", "no client returned anything in this round")
        taken = [one for node in chosen if (one := self._one(number, node, returned.get(node))) is not None]
        unkept = keep(self.setting, taken)
        self.entries += [] if unkept is None else [unkept]
        self.sent = {}

    def _one(self, number: int, node: Node, answer: _Answer | None) -> Exchange | None:
        if answer is None or answer.failure:
            self._note(number, node, answer.failure if answer else "it returned nothing")
            return None
        try:
            exchange = Exchange(number, node, _arrays(self.sent[node]), _arrays(answer.content), answer.examples)
        except FAILURES as error:
            self._note(number, node, f"its weights cannot be read: {first_line(error)}")
            return None
        self.entries.append(record(self.setting, exchange))
        return exchange

    def _note(self, number: int, node: Node, sentence: str) -> None:
        entry = Entry(number, node, sentence)
        log(self.setting.folder, entry)
        self.entries.append(entry)


@final
@dataclass(frozen=True, eq=False)
class _Answer:
    """What a client returned: a record of arrays or `Parameters`, or why there is none."""

    content: Any = None
    examples: int | None = None
    failure: str = ""


def _arrays(content: Any) -> Arrays:
    """The arrays of a message's content, or of `Parameters`. Raises `BadInput` on none and on several records."""
    common = optional("flwr.common", extra="flower", purpose="watching a Flower federation")
    if isinstance(content, common.Parameters):
        return Arrays(common.parameters_to_ndarrays(content))
    records = list(content.array_records.values())
    if len(records) != 1:
        raise BadInput(f"expected one record of arrays in a message, got {len(records)}; send the weights in one")
    names, values = list(records[0]), [array.numpy() for array in records[0].values()]
    numbered = names == [str(place) for place in range(len(names))]  # made of a list, not of a state dict
    return Arrays(values, None if numbered else names)


def _watch_messages(copied: Any, rounds: _Rounds) -> None:
    configure, aggregate = copied.configure_train, copied.aggregate_train  # bound to the copy
    weighted = getattr(copied, "weighted_by_key", EXAMPLES)

    def configured(server_round: int, arrays: Any, config: Any, grid: Any) -> list[Message]:
        messages = list(configure(server_round, arrays, config, grid))
        rounds.sent = {message.metadata.dst_node_id: message.content for message in messages}
        return messages

    def aggregated(server_round: int, replies: Iterable[Message]) -> Any:
        kept = list(replies)
        rounds.close(server_round, {reply.metadata.src_node_id: _answered(reply, weighted) for reply in kept})
        return aggregate(server_round, kept)

    copied.configure_train, copied.aggregate_train = configured, aggregated


def _answered(reply: Message, weighted: str) -> _Answer:
    if reply.has_error():
        return _Answer(failure=f"it failed: {reply.error.reason}")
    counts = [metrics[weighted] for metrics in reply.content.metric_records.values() if weighted in metrics]
    return _Answer(reply.content, _whole(counts[0]) if counts else None)


def _whole(value: Any) -> int | None:
    """A number of examples, or None where a client weighs itself by something else."""
    return int(value) if isinstance(value, int | float) and value >= 1 and value == int(value) else None


def _watch_older(copied: Any, rounds: _Rounds) -> None:
    configure, aggregate = copied.configure_fit, copied.aggregate_fit

    def configured(server_round: int, parameters: Any, client_manager: Any) -> Any:
        asked = configure(server_round, parameters, client_manager)
        rounds.sent = {proxy.cid: instructions.parameters for proxy, instructions in asked}
        return asked

    def aggregated(server_round: int, results: Any, failures: Any) -> Any:
        answers = {proxy.cid: _Answer(result.parameters, _whole(result.num_examples)) for proxy, result in results}
        failed = [one for one in failures if isinstance(one, tuple)]
        answers.update({proxy.cid: _Answer(failure=f"it failed: {result.status}") for proxy, result in failed})
        rounds.close(server_round, answers)
        return aggregate(server_round, results, failures)

    copied.configure_fit, copied.aggregate_fit = configured, aggregated
