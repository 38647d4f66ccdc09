"""What a command does: the recipe that describes a run, and the runs themselves."""
