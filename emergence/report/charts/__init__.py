"""One module for each kind of figure. A new figure is a new module here with a ``KIND``, and nothing else.

``chart`` says what a kind is and finds them all; ``rows`` and ``drawing`` hold what several kinds share.
"""
