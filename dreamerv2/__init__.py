"""DreamerV2: learns a world model from pixels, and to act from its dreams."""

__version__ = "0.2.0"
