"""``python -m toolbox_cli`` is the command ``toolbox``."""

from toolbox_cli.cli import run

run()
