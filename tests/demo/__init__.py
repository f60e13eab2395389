"""`make demo`: the main job, on one device and then on a fleet, step by step; `make up`: that fleet to play with."""
