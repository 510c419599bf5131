"""What a run returns: counts, cost and answers, as a record, a data frame and the output of a notebook."""
