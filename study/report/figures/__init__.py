"""The figures of a report; ``registry`` lists them."""
