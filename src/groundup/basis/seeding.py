"""Randomness as a pure function of what it is for: (recipe seed, purpose, position).

Nothing here keeps state, so a resumed run draws what the uninterrupted one would have drawn.
"""

import hashlib

import torch


def seed_from(*parts: int | str) -> int:
    """A 63-bit seed, a hash of `parts`, e.g. `seed_from(recipe_seed, "augment", step)`. Stable across machines and versions."""
    digest = hashlib.blake2b("\x1f".join(f"{type(part).__name__}:{part}" for part in parts).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little") >> 1


def generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device`, seeded from `parts`."""
    return torch.Generator(device=device).manual_seed(seed_from(*parts))


def permutation(count: int, *parts: int | str) -> torch.Tensor:
    """A permutation of range(count), int64 on the CPU: the same on every device and for any number of workers."""
    return torch.randperm(count, generator=generator(*parts))


def coin(indices: torch.Tensor, *parts: int | str) -> torch.Tensor:
    """A fair coin per image: bool, a function of (`parts`, image index) alone, whatever the batch. `indices`: int64."""
    return (scrambled(indices * -7046029254386353131 + (seed_from(*parts) & 0x7FFFFFFFFFFFFFFF)) & 1).bool()


def uniforms(indices: torch.Tensor, count: int, *parts: int | str) -> torch.Tensor:
    """`count` numbers in [0, 1) per image, float32 (B, count): a function of (`parts`, image index) alone, whatever the batch.
    `indices`: int64 (B,)."""
    own = scrambled(indices * -7046029254386353131 + (seed_from(*parts) & 0x7FFFFFFFFFFFFFFF))
    steps = torch.arange(1, count + 1, device=indices.device) * -7046029254386353131
    # 24 bits are what a float32 below 1 can hold.
    return ((scrambled(own[:, None] + steps) >> 40) & 0xFFFFFF).float() / (1 << 24)


def scrambled(x: torch.Tensor) -> torch.Tensor:
    """A hash of every number of `x`, int64 of any shape: 64 random bits, the same on every device."""
    # The finaliser of splitmix64 (Steele, Lea, Flood 2014), on wrapping int64 arithmetic; >> is arithmetic, hence the masks.
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
