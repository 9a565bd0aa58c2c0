"""The ``pocketnet`` command."""
