# SPDX-License-Identifier: Apache-2.0
"""Readers of real data: rankings, ratings, rewards."""

from jaxalign.data.preflib import Rankings, parse_preflib, read_preflib
from jaxalign.data.ratings import Ratings, read_ratings
from jaxalign.data.rewards import Rewards, read_rewards, write_rewards

__all__ = (
  "Rankings",
  "Ratings",
  "Rewards",
  "parse_preflib",
  "read_preflib",
  "read_ratings",
  "read_rewards",
  "write_rewards",
)
