"""Bulk tokenization: whole data sets as shards of tokens."""

from tokenizers_mm.scale.shards import Item, Origin, ShardError, ShardReader, ShardWriter, find_shards, read_shard

__all__ = ["Item", "Origin", "ShardError", "ShardReader", "ShardWriter", "find_shards", "read_shard"]
