"""The parts: environments, replay, networks, distributions, logging, configuration."""
