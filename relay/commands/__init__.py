"""`torv relay …`: one file for each family of commands, imported when one of them is asked for.

Progress goes to standard error, results to output.
"""
