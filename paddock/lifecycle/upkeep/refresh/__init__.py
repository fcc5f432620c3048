"""Refresh: make what is promoted follow the catalog.

heads   the commit of each wanted branch, many at a time
plan    what is to be done for each entry, and why: a pure function of what was found
"""
