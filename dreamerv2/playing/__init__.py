"""Behind play.py and play_test.py: the window, keys, and the dream stepped by hand."""
