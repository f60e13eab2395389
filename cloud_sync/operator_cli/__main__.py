"""`python -m cloud_sync.operator_cli` is `fleet`; the commands are in fleet.py."""

from cloud_sync.operator_cli.fleet import main

if __name__ == "__main__":
    main()
