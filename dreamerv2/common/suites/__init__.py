"""Behind envs.py: the suites of environments, and the wrappers around them."""
