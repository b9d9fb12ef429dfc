"""Comparisons with other frameworks; torch comes with the dev extra."""
