"""Behind logger.py: pictures, progress, and services that take metrics."""
