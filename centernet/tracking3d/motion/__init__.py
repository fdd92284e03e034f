"""Where tracked boxes go next: motion models, stepped for all tracks at once.

:mod:`.base` what a tracker asks of them; :mod:`.kalman` and :mod:`.constant` without learned weights.
"""
