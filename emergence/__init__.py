"""Does semantic-role understanding emerge from next-token prediction alone?

The package is read from the bottom up: ``measures`` (pure mathematics), ``spec`` (one frozen description of an
experiment), ``data`` and ``model``, ``training``, ``answering`` (how a trunk answers), ``experiment`` (run
directories), ``studies``, ``findings``, ``report``, ``sweep``, and last ``remote`` (Modal), ``commands``, ``cli``.
ARCHITECTURE.md draws the map; a test enforces the direction of the imports.
"""

__version__ = "0.1.0"
