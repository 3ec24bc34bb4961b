"""toolbox: keeps the embeddings of a tool registry right."""

import os

__version__ = "0.1.0"

# pydantic looks through every installed package for plugins, which none of ours needs: 20 ms of each command.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
