"""Next-byte distributions of a language model over tokens, free of the bias of where the prompt's tokens happen to end.

Phan et al., "Exact Byte-Level Probabilities from Tokenized Language Models for FIM-Tasks and Model Ensembles", ICLR 2025. The
probability of a byte string is the sum over the token sequences that cover it; here these are kept from byte to byte, so that
each byte costs one call of the model, whatever the tokenizer. ``mode="all"`` sums over every token sequence, canonical or not,
with a beam: Vieira et al., "From Language Models over Tokens to Language Models over Characters", ICML 2025.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from tokenizers_mm.text.byte_exact.canonical import Canonical
from tokenizers_mm.text.byte_exact.state import END, SYMBOLS, Branch, Ids, SortedTokens, State, log_sum

Mode = Literal["valid", "all", "fast"]
LM = Callable[[Sequence[Ids]], ArrayLike]
"""Log-probabilities ``[B, V]`` (a tensor on the CPU, or an array) of what follows each of B token sequences."""
_CALLS = 64  # sequences of one call at most


class ByteExactLM:
    """A language model over tokens as one over bytes.

    Args:
        lm: Token sequences to log-probabilities of the next token; any callable.
        tokenizer: Its tokenizer's canonical encodings.
        start: Ids that every sequence begins with (the beginning-of-text token).
        ends: Ids that end a text; together they are the symbol :data:`END`.
        mode: ``"valid"`` counts the sequences that the tokenizer can give, ``"all"`` every sequence, which is exact for texts
            made by sampling tokens and joining them; ``"fast"`` never masks what may follow but goes on only from canonical
            sequences, which is exact where the model knows better than to leave them.
        width: Sequences that are kept; None for all. A beam makes ``"all"`` affordable.
        threshold: Sequences with less than this share of the probability are dropped.

    Raises:
        ValueError: If the mode is unknown, the width below one, or the threshold no share.
    """

    def __init__(
        self,
        lm: LM,
        tokenizer: Canonical,
        *,
        start: Sequence[int] = (),
        ends: Sequence[int] = (),
        mode: Mode = "valid",
        width: int | None = None,
        threshold: float = 0.0,
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {get_args(Mode)}, got {mode!r}")
        if width is not None and width < 1:
            raise ValueError(f"width must be at least 1 sequence or None, got {width}")
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold must be a share from 0 to below 1, got {threshold}")
        self.lm, self.tokenizer, self.mode = lm, tokenizer, mode
        self.prefix, self.stops = tuple(start), tuple(ends)
        self.width, self.threshold = width, threshold
        self._sorted = SortedTokens(tokenizer.tokens)
        self._known: dict[Ids, np.ndarray] = {}

    # -- states ----------------------------------------------------------------------------------------------------------

    def start(self, prompt: bytes | str = b"", context: Sequence[int] | None = None) -> State:
        """The state after a prompt, which may break off anywhere.

        Args:
            prompt: Bytes, or a string for its UTF-8.
            context: Ids before it, special ones among them, instead of the model's own start; the prompt goes on after them, so
                that no prefix is put in front of it.

        Raises:
            ValueError: If the tokenizer can say no text that begins so.
        """
        return self.start_batch([prompt], None if context is None else [context])[0]

    def start_batch(
        self, prompts: Sequence[bytes | str], contexts: Sequence[Sequence[int]] | None = None
    ) -> list[State]:
        """States after prompts, the model called for all of them together; arguments as in :meth:`start`."""
        data = [p.encode("utf-8") if isinstance(p, str) else bytes(p) for p in prompts]
        before = [self.prefix] * len(data) if contexts is None else [tuple(ids) for ids in contexts]
        prefix = self.tokenizer.prefix if contexts is None else b""
        splits = [self._split(prefix + item) for item in data]
        rows = zip(before, splits, strict=True)
        self._learn([ids + fixed + left for ids, (fixed, _, lefts) in rows for left in lefts])
        states = [
            State(0, (((), 0.0),), (), fixed=fixed, context=ids)
            for ids, (fixed, *_) in zip(before, splits, strict=True)
        ]
        rests = [rest for _, rest, _ in splits]
        for at in range(max(map(len, rests), default=0)):
            going = [i for i, rest in enumerate(rests) if at < len(rest)]
            later = self.advance_batch([states[i] for i in going], [rests[i][at] for i in going])
            for i, state in zip(going, later, strict=True):
                states[i] = state
        self._known.clear()
        return [replace(state, size=len(item)) for state, item in zip(states, data, strict=True)]

    def _split(self, data: bytes) -> tuple[Ids, bytes, list[Ids]]:
        """Tokens that all covers begin with, the bytes after them, and the canonical sequences of these bytes' starts."""
        if self.mode == "all":
            return (), data, []
        tokenizer = self.tokenizer
        border = tokenizer.border(data)
        before = (tokenizer.encodings(data[:border]) or [()])[0] if border else ()
        tail = data[border:]
        cuts = range(max(0, len(tail) - tokenizer.longest), len(tail))
        lefts = [ids for cut in cuts for ids in (tokenizer.encodings(tail[:cut]) if cut else [()])] or [()]
        common = _common(lefts)
        size = len(tokenizer.bytes_of(common))
        return (*before, *common), tail[size:], list(dict.fromkeys(ids[len(common) :] for ids in lefts))

    def advance(self, state: State, byte: int) -> State:
        """The state one byte later.

        Raises:
            ValueError: If no text goes on so, or ``byte`` is none.
        """
        return self.advance_batch([state], [byte])[0]

    def advance_batch(self, states: Sequence[State], symbols: Sequence[int]) -> list[State]:
        """States one byte later, the model called for all of them together."""
        for byte in symbols:
            if not 0 <= byte < 256:
                raise ValueError(f"byte must be 0 to 255, got {byte}")
        self._expand(states)
        return [self._advance(state, byte) for state, byte in zip(states, symbols, strict=True)]

    def _advance(self, state: State, byte: int) -> State:
        ends: list[tuple[Ids, float]] = []
        branches: list[Branch] = []
        for branch in self._branches(state):
            first, on, end = self._sorted.down(branch.lo, branch.hi, branch.depth, byte)
            for at in range(first, on):
                if branch.weights[at] > -np.inf:
                    ends.append(((*branch.ids, int(self._sorted.order[at])), float(branch.weights[at])))
            if on < end and branch.weights[on:end].max() > -np.inf:
                branches.append(Branch(branch.ids, branch.weights, on, end, branch.depth + 1))
        if self.mode == "fast":
            ends = [item for item in ends if self.tokenizer.valid(state.fixed + item[0])]
        if not ends and not branches:
            raise ValueError(
                f"no text of this model goes on with byte 0x{byte:02x} after {state.size} bytes: its vocabulary lacks it "
                "there, or gives it no probability"
            )
        return self._scaled(replace(state, size=state.size + 1, ends=(), branches=(), _memo={}), ends, branches)

    def _scaled(self, state: State, ends: list[tuple[Ids, float]], branches: list[Branch]) -> State:
        """With the likeliest sequences only, and log-probabilities near zero."""
        masses = np.array([weight for _, weight in ends] + [branch.mass() for branch in branches])
        if self.width is not None or self.threshold:
            keep = masses >= log_sum(masses) + np.log(self.threshold) if self.threshold else masses > -np.inf
            keep[masses.argmax()] = True
            if self.width is not None:
                keep[np.argsort(-masses, kind="stable")[self.width :]] = False
            ends = [item for item, kept in zip(ends, keep, strict=False) if kept]
            branches = [item for item, kept in zip(branches, keep[len(keep) - len(branches) :], strict=True) if kept]
        top = float(masses.max())
        return replace(
            state,
            ends=tuple((ids, weight - top) for ids, weight in ends),
            branches=tuple(replace(branch, weights=branch.weights - top) for branch in branches),
            scale=state.scale + top,
        )

    # -- distributions ---------------------------------------------------------------------------------------------------

    def logprobs(self, state: State) -> np.ndarray:
        """Log-probabilities of the next byte, and at :data:`END` of the text's end, float64 ``[257]``."""
        return self.logprobs_batch([state])[0]

    def logprobs_batch(self, states: Sequence[State]) -> np.ndarray:
        """Those of several states, ``[B, 257]``, the model called for all of them together."""
        self._expand(states)
        scores = np.stack([self._scores(state) for state in states]) if states else np.zeros((0, SYMBOLS))
        return scores - np.array([[log_sum(row)] for row in scores]).reshape(-1, 1)

    def score(self, data: bytes | str, *, whole: bool = False) -> float:
        """Log-probability in nats that a text begins with ``data``; with ``whole``, that it is ``data``.

        Raises:
            ValueError: If the tokenizer can say no such text.
        """
        data = data.encode("utf-8") if isinstance(data, str) else bytes(data)
        data = self.tokenizer.prefix + data
        state = State(0, (((), 0.0),), (), context=self.prefix)
        if self.mode != "all":
            ends = [ids for cut in range(len(data)) for ids in self.tokenizer.encodings(data[:cut])]
            self._learn([self.prefix + ids for ids in dict.fromkeys(ends)])
        for byte in data:
            state = self.advance(state, byte)
        self._known.clear()
        if not whole:
            return state.mass()
        self._expand([state])
        return state.scale + float(self._scores(state)[END])

    def covers(self, state: State) -> list[tuple[Ids, bytes, float]]:
        """The token sequences that cover the bytes after the fixed tokens: ids, what they say beyond, log-probability."""
        found = [(ids, b"", state.scale + weight) for ids, weight in state.ends]
        for branch in state.branches:
            for at in range(branch.lo, branch.hi):
                if branch.weights[at] > -np.inf:
                    token = int(self._sorted.order[at])
                    rest = self.tokenizer.tokens[token][branch.depth :]
                    found.append(((*branch.ids, token), rest, state.scale + float(branch.weights[at])))
        return found

    def _scores(self, state: State) -> np.ndarray:
        """Log-probabilities of symbols, not normalised, ``[257]``."""
        branches = self._branches(state)
        top = max((float(b.weights[b.lo : b.hi].max(initial=-np.inf)) for b in branches), default=-np.inf)
        ends = state._memo["ends"]
        top = max(top, float(np.max(ends, initial=-np.inf)))
        total = np.zeros(SYMBOLS)
        if not np.isfinite(top):
            raise ValueError("the model gives no probability to any byte, nor to the text's end")
        for branch in branches:
            here = self._sorted.column(branch.depth)[branch.lo : branch.hi]
            shares = np.exp(branch.weights[branch.lo : branch.hi] - top)
            total[:END] += np.bincount(here - 1, shares, minlength=END)
        total[END] = np.exp(np.asarray(ends) - top).sum()
        with np.errstate(divide="ignore"):
            return np.log(total) + top

    def _branches(self, state: State) -> tuple[Branch, ...]:
        return state.branches + state._memo["branches"]

    def _expand(self, states: Sequence[State]) -> None:
        """Let a new token begin where sequences of states end: one call of the model."""
        new = [state for state in states if "branches" not in state._memo]
        rows = [state.context + state.fixed + ids for state in new for ids, _ in state.ends]
        found = iter(self._ask(rows))
        for state in new:
            branches, ends = [], []
            for ids, weight in state.ends:
                logp = next(found) + weight
                ends.append(log_sum(logp[list(self.stops)]))
                weights = logp[self._sorted.order]
                if self.mode == "valid":
                    follows = self.tokenizer.follows(state.fixed + ids)[self._sorted.order]
                    weights = np.where(follows, weights, -np.inf)
                branches.append(Branch(ids, weights, 0, len(weights), 0))
            state._memo.update(branches=tuple(branches), ends=ends)

    # -- the model -------------------------------------------------------------------------------------------------------

    def _ask(self, rows: Sequence[Ids]) -> list[np.ndarray]:
        missing = list(dict.fromkeys(row for row in rows if row not in self._known))
        fresh: dict[Ids, np.ndarray] = {}
        for at in range(0, len(missing), _CALLS):
            part = missing[at : at + _CALLS]
            found = np.asarray(self.lm(part), dtype=np.float64)
            if found.ndim != 2 or len(found) != len(part) or found.shape[1] < len(self.tokenizer.tokens):
                wanted = f"[{len(part)}, {len(self.tokenizer.tokens)} or more]"
                raise ValueError(f"lm must return log-probabilities {wanted}, got {list(found.shape)}")
            fresh.update(zip(part, found, strict=True))
        return [self._known[row] if row in self._known else fresh[row] for row in rows]

    def _learn(self, rows: Sequence[Ids]) -> None:
        """Ask for many sequences at once that will be asked for one by one."""
        rows = list(dict.fromkeys(rows))
        self._known.update(zip(rows, self._ask(rows), strict=True))


def _common(rows: Sequence[Ids]) -> Ids:
    """What all rows begin with."""
    first, last = min(rows), max(rows)
    size = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:size]
