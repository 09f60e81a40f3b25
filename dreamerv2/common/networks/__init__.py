"""Behind nets.py and dists.py: the RSSM, layers, convolutions, and random numbers."""
