"""``python -m pocketnet_fast.cli``: the command, by the interpreter that is named."""

from pocketnet_fast.cli.main import main

main()
