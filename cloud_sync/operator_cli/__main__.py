"""`python -m cloud_sync.operator_cli` is `fleet`; the commands are in main.py."""

from cloud_sync.operator_cli.main import main

if __name__ == "__main__":
    main()
