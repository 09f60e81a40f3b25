"""Behind plot.py: curves read from runs, drawn beside published scores."""
