"""Reading the stream `maniple.records`, in which every task's first terminal result wins.

`RecordReader` reads the stream from an offset in batches; `FirstWins` keeps what the records say of
each task. The ledger and the fault campaign read it this way.
"""

from maniple_runtime.records.entries import Entry, Position, Record, TaskKey, decode_records
from maniple_runtime.records.first_wins import End, Ending, FirstWins, TaskFate, Verdict
from maniple_runtime.records.reader import Batch, RecordReader

__all__ = [
    "Batch",
    "End",
    "Ending",
    "Entry",
    "FirstWins",
    "Position",
    "Record",
    "RecordReader",
    "TaskFate",
    "TaskKey",
    "Verdict",
    "decode_records",
]
