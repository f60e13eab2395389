"""The coordinator's memory and what it does with messages and operators' wishes; sockets are in `mqtt` and `api`.

Read memory.py (what it knows), conversation.py (what devices say), planner.py (what they are told), intents.py (what
operators wish), handout.py (who may have which part), documents.py (how all that is shown).
"""
