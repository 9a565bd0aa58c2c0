"""``python -m pocketnet_fast.cli``, which torchrun can start."""

from pocketnet_fast.cli.main import main

main()
