"""Upkeep: what the leader does by the clock. Each file is a step; `loops` runs them."""
