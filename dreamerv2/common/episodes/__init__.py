"""Behind replay.py: episodes in memory and on disk, and the batches cut from them."""
