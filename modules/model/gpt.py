"""The decoder of both papers: GPT-1 (normalise after the residual) and GPT-2 (before, and ln_f).

Names follow the papers and the released weights, so a checkpoint, a paper and the code agree.
Shapes: B rows, T new positions, S positions seen, C features, H heads, D features per head.
"""

import math

import torch
from torch import Tensor, nn

from modules.kernels import ops
from modules.kernels.gradients import gather
from modules.kernels.linear import Linear, gelu, linear
from modules.model.attention import attend
from modules.model.base import Decoder, compute_dtype
from modules.model.config import GPTConfig
from modules.model.packed import Packed

LN_EPS = 1e-5  # both releases
FEW = 4  # where one token of so many is wanted, the last attention makes no other queries


class Cache:
    """Keys and values of what each row has read, in room set aside once.

    Rows may hold different numbers of tokens. A query at position p sees the slots 0..p of its row;
    slots after a row's length hold left-overs of padding that are overwritten before they are seen.
    """

    def __init__(self, keys: Tensor, values: Tensor, lengths: list[int]) -> None:
        self.keys, self.values = keys, values  # (L, B, H, N, D) each
        self.lengths = lengths  # tokens held, per row
        self._new = 0
        self._positions = keys.new_empty(0)
        self.mask: Tensor | None = None

    @property
    def empty(self) -> bool:
        """True before the first token."""
        return not any(self.lengths)

    @property
    def full(self) -> bool:
        """True where a row has no room for one more token."""
        return max(self.lengths, default=0) >= self.keys.shape[3]

    @property
    def _uniform(self) -> bool:
        return len(set(self.lengths)) <= 1

    def open(self, n: int) -> Tensor:
        """Make ready for n new tokens a row; return their positions (n,) or (B, n)."""
        end, device = max(self.lengths, default=0) + n, self.keys.device
        if end > self.keys.shape[3]:
            raise ValueError(f"the cache has {self.keys.shape[3]} positions; {end} are needed")
        self._new, self._end, self.mask = n, end, None
        positions = torch.arange(n, device=device)
        if self._uniform:
            positions = positions + (end - n)  # (n,)
        else:
            positions = positions + torch.tensor(self.lengths, device=device)[:, None]  # (B, n)
        self._positions = positions
        if not self.empty and (n > 1 or not self._uniform):
            slots = torch.arange(end, device=device)
            mask = slots <= positions[..., None]  # (n, S) or (B, n, S)
            self.mask = mask if self._uniform else mask[:, None]  # (B, 1, n, S)
        return positions

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values (B, H, n, D); return all that may be seen."""
        for store, new in ((self.keys[layer], k), (self.values[layer], v)):
            if self._uniform:
                store[:, :, self._end - self._new : self._end] = new
            else:
                rows = torch.arange(len(store), device=store.device)[:, None]  # (B, 1)
                store[rows, :, self._positions] = new.transpose(1, 2).to(store.dtype)
        if self.empty:
            return k, v  # nothing older to see
        seen = slice(0, self._end)
        return self.keys[layer, :, :, seen].to(k), self.values[layer, :, :, seen].to(v)

    def close(self, lengths: list[int] | None) -> None:
        """Count the new tokens: all, or the first `lengths` of each row (the rest is padding)."""
        new = lengths if lengths is not None else [self._new] * len(self.lengths)
        self.lengths = [old + n for old, n in zip(self.lengths, new, strict=True)]

    def peek(self) -> "Cache":
        """Return a cache to read on with; this one forgets it, but may not be used meanwhile."""
        return Cache(self.keys, self.values, list(self.lengths))

    def take(self, rows: list[int]) -> "Cache":
        """Return a cache of these rows, in this order; a row may be repeated."""
        index = torch.tensor(rows, device=self.keys.device, dtype=torch.int64)
        keys, values = self.keys.index_select(1, index), self.values.index_select(1, index)
        return Cache(keys, values, [self.lengths[i] for i in rows])

    @staticmethod
    def join(caches: "list[Cache]") -> "Cache":
        """Return one cache of the rows of all; the one that is alone is not copied."""
        if len(caches) == 1:
            return caches[0]
        layers, _, heads, _, features = caches[0].keys.shape
        lengths = [length for cache in caches for length in cache.lengths]
        room = max(cache.keys.shape[3] for cache in caches)
        keys = caches[0].keys.new_zeros(layers, len(lengths), heads, room, features)
        made, start = Cache(keys, torch.zeros_like(keys), lengths), 0
        for cache in caches:
            rows, seen = slice(start, start := start + len(cache.lengths)), max(cache.lengths)
            made.keys[:, rows, :, :seen] = cache.keys[:, :, :, :seen]
            made.values[:, rows, :, :seen] = cache.values[:, :, :, :seen]
        return made


class Attention(nn.Module):
    """Causal self-attention with one fused map for q, k and v, in that order."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        c = config.n_embd
        self.n_head, self.dropout = config.n_head, config.attn_dropout
        self.c_attn = Linear(c, 3 * c)
        self.c_proj = Linear(c, c)
        self.resid = nn.Dropout(config.resid_dropout)

    def forward(
        self, x: Tensor, layer: int, cache: Cache | None, packed: Packed | None = None
    ) -> Tensor:
        """Mix the positions of x (B, T, C) with what came before them."""
        if packed is not None:
            return self.resid(self.c_proj(self._attend_packed(self.c_attn(x[0]), packed)))[None]
        b, t, c = x.shape
        qkv = self.c_attn(x).view(b, t, 3, self.n_head, c // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        if cache is not None:
            k, v = cache.extend(layer, k, v)  # (B, H, S, D)
        mask = cache.mask if cache is not None else None
        a = attend(q, k, v, mask, self.dropout if self.training else 0.0)  # (B, H, T, D)
        return self.resid(self.c_proj(a.transpose(1, 2).reshape(b, t, c)))  # (B, T, C)

    def _attend_packed(self, qkv: Tensor, packed: Packed) -> Tensor:
        """Return the heads' output (N, C) for packed q, k and v (N, 3C)."""
        n, c = qkv.shape[0], qkv.shape[1] // 3
        dropout = self.dropout if self.training else 0.0
        heads = qkv.view(n, 3, self.n_head, c // self.n_head)
        if qkv.is_cuda and qkv.itemsize == 2 and not dropout:
            return packed.attend(*heads.unbind(1)).reshape(n, c)
        q, k, v = packed.padded(heads).permute(2, 0, 3, 1, 4)  # (R, H, L, D) each
        a = attend(q, k, v, packed.mask, dropout)
        return packed.packed(a.transpose(1, 2).flatten(2))

    def at(self, x: Tensor, packed: Packed, positions: Tensor) -> Tensor:
        """Return what `forward` does of packed x (1, N, C), at these positions (P,) alone."""
        c = x.shape[2]
        weight, bias = self.c_attn.weight, self.c_attn.bias
        queries = packed.queries(positions)
        size = (self.n_head, c // self.n_head)
        q = linear(x[0, queries.tokens], weight[:c], bias[:c]).unflatten(2, size)  # (R, Q, H, D)
        kv = packed.padded(linear(x[0], weight[c:], bias[c:]).unflatten(1, (2, *size)))
        k, v = kv.permute(2, 0, 3, 1, 4)  # (R, H, L, D) each
        dropout = self.dropout if self.training else 0.0
        a = attend(q.transpose(1, 2), k, v, queries.mask, dropout)  # (R, H, Q, D)
        a = a.transpose(1, 2).reshape(-1, c).index_select(0, queries.places)  # (P, C)
        return self.resid(self.c_proj(a))[None]


class MLP(nn.Module):
    """Two layers, four times as wide inside, with the tanh form of GELU (both releases)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd)
        self.resid = nn.Dropout(config.resid_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position of x (B, T, C) by itself."""
        h = gelu(x, self.c_fc)  # (B, T, 4C)
        return self.resid(self.c_proj(h))  # (B, T, C)


class Block(nn.Module):
    """Attention and MLP, each with a residual and a layer norm."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.pre_norm = config.norm == "pre"
        self.drops = config.attn_dropout > 0 or config.resid_dropout > 0
        self.even = config.n_embd // config.n_head % 2 == 0  # kernels read pairs of features
        self.ln_1 = nn.LayerNorm(config.n_embd, LN_EPS)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, LN_EPS)
        self.mlp = MLP(config)

    @property
    def bare(self) -> bool:
        """Whether nothing stands beside the maps (an adapter), so that kernels may read them."""
        maps = (self.attn.c_attn, self.attn.c_proj, self.mlp.c_fc, self.mlp.c_proj)
        return all(type(m) is Linear for m in maps)

    def by_kernels(self, x: Tensor) -> bool:
        """Tell whether the kernels do it for x (B, T, C), where there is no cache."""
        plain = self.pre_norm and self.even and not (self.training and self.drops)
        return plain and ops.usable(x) and self.bare

    def forward(
        self,
        x: Tensor,
        layer: int,
        cache: Cache | None,
        packed: Packed | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Return the block's output (B, T, C), or (B, P, C) at the positions `at` (P,) alone."""
        rows = None if packed is None else packed.rows
        few = at is not None and packed is not None and FEW * len(at) <= x.shape[1] and self.bare
        if cache is None and self.by_kernels(x):
            x = ops.attention_block(x, self.ln_1, self.attn, rows, at if few else None)
            return ops.mlp_block(x if few else _at(x, at), self.ln_2, self.mlp)
        normal = self.ln_1(x) if self.pre_norm else x  # GPT-2 paper, section 2.3
        if few:
            assert packed is not None and at is not None
            x = _at(x, at) + self.attn.at(normal, packed, at)
        else:
            x = _at(x + self.attn(normal, layer, cache, packed), at)
        if self.pre_norm:
            return x + self.mlp(self.ln_2(x))
        x = self.ln_1(x)  # GPT-1: after the residual
        return self.ln_2(x + self.mlp(x))


def _at(x: Tensor, positions: Tensor | None) -> Tensor:
    """Return x (B, T, C) at these positions (P,); None: all."""
    return x if positions is None else x.index_select(1, positions)


class GPT(Decoder):
    """Token and position embedding, blocks, and a final norm where the config says pre-norm."""

    branching = True

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config: GPTConfig = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        pre_norm = config.norm == "pre"  # GPT-1 ends with the last block's ln_2
        self.ln_f = nn.LayerNorm(config.n_embd, LN_EPS) if pre_norm else nn.Identity()
        self.init_weights()

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Draw new weights: N(0, 0.02), biases 0 (GPT-1 paper, section 4.1).

        Pre-norm models scale the two projections into the residual stream by 1 / sqrt(N), N = 2
        residual layers per block (GPT-2 paper, section 2.3).
        """
        std = self.config.init_std
        residual = std / math.sqrt(2 * self.config.n_layer) if self.config.norm == "pre" else std
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                parameter.zero_()
            elif ".ln_" in name or name.startswith("ln_f"):
                parameter.fill_(1.0)
            elif name == "wpe.weight":
                parameter.normal_(0, self.config.positions_std, generator=generator)
            else:
                scale = residual if name.endswith("c_proj.weight") else std
                parameter.normal_(0, scale, generator=generator)

    def forward(
        self,
        tokens: Tensor,
        cache: Cache | None = None,
        lengths: list[int] | None = None,
        packed: Packed | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Return the features (B, T, C) of tokens (B, T) int64.

        With a cache (inference only) the tokens follow what it holds, and it takes them in.
        `lengths` says how many of each row's tokens are real where the batch is padded on the
        right; the features of padding mean nothing. `packed` says what the tokens of one row
        (1, N) are where they are many sequences. `at` names the positions (P,) whose features
        (B, P, C) alone are wanted: the last MLP reads no others.

        Raises:
            ValueError: the tokens reach past the model's or the cache's last position.
        """
        longest = tokens.shape[1] if packed is None else packed.slots.shape[2]
        if cache is None and longest > self.config.n_positions:
            limit = self.config.n_positions
            raise ValueError(f"{longest} tokens a row; the model has {limit} positions")
        if packed is not None:
            positions = packed.positions  # (N,)
        elif cache is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)  # (T,)
        else:
            assert not torch.is_grad_enabled(), "the cache is written in place: use torch.no_grad()"
            positions = cache.open(tokens.shape[1])  # (T,) or (B, T)
        x = self.embed(tokens, positions)  # (B, T, C)
        if cache is None and self.by_kernels(x):
            gather(self.h)
        for layer, block in enumerate(self.h):
            last = layer + 1 == len(self.h)
            x = block(x, layer, cache, packed, at if last else None)
        if cache is not None:
            cache.close(lengths)
        return self.ln_f(x)

    def by_kernels(self, x: Tensor) -> bool:
        """Tell whether the kernels take features x (B, T, C) through the blocks."""
        return all(isinstance(block, Block) and block.by_kernels(x) for block in self.h)

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return the sum of token and position vectors (B, T, C), with dropout."""
        token, position = self.read_tokens(tokens), self.wpe(positions)
        if self.drop_apart:
            return self.drop(token) + self.drop(position.expand_as(token))
        return self.drop(token + position)

    def new_cache(
        self,
        batch: int,
        length: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Cache:
        """Return an empty cache for `batch` rows of at most `length` tokens each.

        Without `dtype` it is of the type that products run in: autocast's, or the weights'.
        """
        config = self.config
        if length > config.n_positions:
            raise ValueError(f"a cache of {length}; the model has {config.n_positions} positions")
        shape = (config.n_layer, batch, config.n_head, length, config.n_embd // config.n_head)
        device, dtype = device or self.device, dtype or compute_dtype(self.wte.weight)
        keys = torch.zeros(shape, device=device, dtype=dtype)
        return Cache(keys, torch.zeros_like(keys), [0] * batch)
