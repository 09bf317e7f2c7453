"""Editor x model x data set to results."""
