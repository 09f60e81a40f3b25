"""How networks run on their device: built, compiled, captured, profiled."""
