"""What a study keeps on disk: journals, records, search points, the lock of its driver."""
