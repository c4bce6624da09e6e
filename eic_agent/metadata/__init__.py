"""The metadata service, IMDSv2 only: the one room that speaks HTTP."""
