"""A model of the protocol, and the world in which real consumers are compared with it.

messages.py   what the model knows of a message and of a process
group.py      what a stream and its groups must be like after each command
recovery.py   what a step of recovery must take
world.py      the consumers, the server they share and the model beside it; time passes here
commands.py   what consumers send, each command compared with the model
events.py     what consumers do and what happens to them, with weights
snapshot.py   all that is in Redis in the terms of the model, and what must always hold
"""
