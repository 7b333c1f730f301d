// How a process of ours begins and ends: signals, its parent, and the word that it serves.
#pragma once

namespace tailor {

// Blocks SIGTERM and SIGINT for this thread and all it starts: call first in main, before any
// library makes threads. A handler would run on any of them, at any point; AwaitStopSignal takes
// them instead. Also ignores SIGPIPE: a peer that is gone is an error of the write.
void BlockStopSignals();

// Waits for SIGTERM or SIGINT and returns its number.
int AwaitStopSignal();

// From now on, SIGTERM when the parent ends.
void DieWithParent();

// Writes "ready\n" to `fd` and closes it. A negative fd is nobody to tell.
void AnnounceReady(int fd);

}  // namespace tailor
