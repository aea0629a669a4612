"""Does semantic-role understanding emerge from next-token prediction alone?

The package is read from the bottom up: ``measures`` (pure mathematics) and ``config``,
``spec`` (one frozen description of an experiment), ``model`` and ``data``, ``training``,
``experiment``, ``analysis``, and at the rim ``remote`` (Modal) and ``cli``.
ARCHITECTURE.md draws the map; a test enforces the direction of the imports.
"""

__version__ = "0.1.0"
