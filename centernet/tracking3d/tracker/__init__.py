"""Detections of consecutive pictures to tracks: who is who, by place, motion and appearance.

:mod:`.tracker` one camera, or several at one moment; :mod:`.cameras` a whole rig; :mod:`.rules` every constant;
:mod:`.detections` what goes in and comes out; :mod:`.affinity`, :mod:`.duplicates`, :mod:`.assignment`, :mod:`.memory`
its parts.
"""
