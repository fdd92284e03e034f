"""Result files of 3D tracking and their scores.

:mod:`.records` collects what the tracker says, :mod:`.kitti_text`, :mod:`.nuscenes_submission` and
:mod:`.waymo_objects` write it for the benchmarks, :mod:`.official` runs their own tools in a process apart,
:mod:`.distance_metric` and :mod:`.kitti_ap` score here.
"""
