"""Run folders of trainings: what is in them, their state, going on with one. No torch."""
