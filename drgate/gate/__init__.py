"""The gate: a repository and its policy. May this change be merged?"""
