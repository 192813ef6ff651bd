"""Runs that several processes share: what travels to them, who does what, what becomes of it."""
