"""Where tracked boxes go next: motion models, stepped for all tracks at once, and their training.

:mod:`.base` what a tracker asks of them; :mod:`.kalman` and :mod:`.constant` without learned weights; :mod:`.velo_lstm`
(with :mod:`.lstm` and :mod:`.variants`) with; :mod:`.checkpoint` files and names. Training: :mod:`.pairing` or
:mod:`.synthetic` make :mod:`.tracks`, :mod:`.losses` unrolls and scores, :mod:`.training` loops.
"""
