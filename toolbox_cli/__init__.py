"""toolbox: keeps the embeddings of a tool registry right."""

__version__ = "0.1.0"
