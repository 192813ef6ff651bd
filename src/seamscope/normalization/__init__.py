"""The operations of a forward pass that take statistics over space: watched, and replaced."""
