"""The checks of ``toolbox verify``, by what they look at: each with a stable name, and the command that mends it."""
