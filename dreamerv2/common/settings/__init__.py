"""Behind config and flags: what each key may be and means, and what a run will do."""
