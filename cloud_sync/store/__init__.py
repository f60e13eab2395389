"""The coordinator's database: tables, migrations, one writer thread, and statements; what they mean is decided above.

Read tables.py, then database.py; the other files are statements by subject, each a function of a connection.
"""
