"""Measures: a product at work in, figures out. They run in the publisher's process; times are of its clock."""
