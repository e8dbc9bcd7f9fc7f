"""Sources, vocabulary, data sets, batches."""
