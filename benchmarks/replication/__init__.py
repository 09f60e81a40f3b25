"""Training runs to compare with the published curves, and the comparison.

What is trained and where it lies is in ``plan``, what a run's folder says of it in
``state``; ``jobs`` trains several runs at once, and ``results`` and ``picture`` hold
what has been reached against the published figures.
"""
