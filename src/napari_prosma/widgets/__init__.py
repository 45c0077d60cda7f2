"""Building blocks of the widgets."""
