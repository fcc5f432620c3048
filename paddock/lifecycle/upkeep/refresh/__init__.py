"""Refresh: make what is promoted follow the catalog.

heads    the commit of each wanted branch, many at a time
facts    what is promoted, recorded, and on the Hub, for all entries
offers   what a commit of the Hub has for one entry
decide   what is to be done for each entry: a pure function of these facts
plan     the plan of all entries
record   what the last refresh of an entry saw and did
"""
