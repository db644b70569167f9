"""Feedback: the right labels of requests, which come later, joined with what the requests were answered."""
