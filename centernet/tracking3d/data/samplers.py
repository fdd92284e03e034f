"""Whole videos in order, for trackers that remember."""

from collections.abc import Iterator, Sequence

from detectron2.utils import comm
from torch.utils.data import Sampler

from ...errors import UserError
from .records import Record


class VideoSampler(Sampler):
    """Indices of the records of this process: whole videos, one after the other, each frame in order.

    Videos are dealt so that the processes have about the same number of frames: the longest first, each to the process
    that has the fewest. A process may have none.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        group_by: str = "video_id",
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        """
        Args:
            records: frame records in any order.
            group_by: key of what must stay together: "video_id", or "scene" when one tracker sees all cameras of a
                scene; then frames are in order of frame index and, within it, time.
            rank, world_size: default to those of this process.

        Raises:
            UserError: a record lacks the key.
        """
        rank = comm.get_rank() if rank is None else rank
        world_size = comm.get_world_size() if world_size is None else world_size
        groups: dict[object, list[int]] = {}
        for index, record in enumerate(records):
            if group_by not in record:
                raise UserError(f"{record['file_name']} has no '{group_by}' to keep frames together by: use 'video_id'")
            groups.setdefault(record[group_by], []).append(index)
        for frames in groups.values():
            frames.sort(key=lambda i: (records[i]["frame_index"], records[i].get("timestamp", 0.0), i))
        shares: list[list[int]] = [[] for _ in range(world_size)]  # numbers of groups
        loads = [0] * world_size
        videos = list(groups.values())
        for number in sorted(range(len(videos)), key=lambda n: (-len(videos[n]), n)):
            process = loads.index(min(loads))
            shares[process].append(number)
            loads[process] += len(videos[number])
        self._indices = [index for number in sorted(shares[rank]) for index in videos[number]]

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

    def __len__(self) -> int:
        return len(self._indices)
