"""What a data set holds: counts, findings of an audit, and what two data sets share."""
