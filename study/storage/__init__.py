"""The files of a study: journals, records, points of a search, the lock of its driver."""
